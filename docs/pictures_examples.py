"""Makes the pictures of `examples.md` by running the examples: ``python docs/pictures_examples.py [NAME ...]``.

It needs matplotlib and pyte; the pictures are in the repository, so that the site builds without.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
sys.path.append(str(ROOT / "examples" / "callbacks"))


def of_its_own(name: str) -> Callable[[], None]:
    """Return what runs an example that leaves ``NAME.png`` in the folder it is given."""

    def run() -> None:
        example: Any = __import__(name)
        with TemporaryDirectory() as folder:
            example.main(["--folder", folder])
            picture = Path(folder, f"{name}.png").read_bytes()
        (PICTURES / f"example_{name}.png").write_bytes(picture)

    return run


def metrics_tracker() -> None:
    """The curves that its `plot` draws."""
    import metrics_tracker

    with TemporaryDirectory() as folder:
        path = Path(folder, "curves.png")
        metrics_tracker.main(["--plot", str(path)])
        (PICTURES / "example_metrics_tracker.png").write_bytes(path.read_bytes())


def module_ema() -> None:
    """What validation says of the student and of the teacher, epoch by epoch."""
    import module_ema
    from watching import save_curves

    _, student, teacher = zip(*module_ema.main(), strict=True)
    curves = {"student": list(student), "teacher, its average": list(teacher)}
    save_curves(curves, "val_acc", PICTURES / "example_module_ema.png")


def notifier() -> None:
    """The messages, as the terminal shows them."""
    import notifier
    import pyte
    from pictures import COLUMNS, draw

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        notifier.main()
    lines = shown.getvalue().splitlines()
    screen = pyte.Screen(COLUMNS, len(lines))
    pyte.Stream(screen).feed("\r\n".join(lines))
    cells = [[screen.buffer[row][column] for column in range(COLUMNS)] for row in range(len(lines))]
    (PICTURES / "example_notifier.svg").write_text(draw(cells), encoding="utf-8")


EXAMPLES = {name: of_its_own(name) for name in ("online_probe", "gradient_flip", "latent_walk", "sampling")}
EXAMPLES |= {made.__name__: made for made in (metrics_tracker, module_ema, notifier)}


def main() -> None:
    """Run the examples with these names, or all."""
    os.environ["LEYDEN_CALLBACKS"] = "off"
    for name in sys.argv[1:] or EXAMPLES:
        EXAMPLES[name]()


if __name__ == "__main__":
    main()
