"""Draws the picture of `architecture.md`: ``python docs/pictures_house.py``.

The layers are those that ``tests/test_imports.py`` holds the imports to, the distributions those in ``packages/``.
"""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from drawing import box, page, text

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).parent / "pictures" / "house.svg"
WIDTH, MARGIN, LINE, CHARACTER = 760, 14, 20, 7.9
NAMES_AT = 250  # where the names of a layer begin, to the right of its title
COLOURS = ("grey", "grey", "green", "blue", "amber", "violet", "grey")


def rules() -> ModuleType:
    """Import the test that holds the imports to the layers."""
    spec = importlib.util.spec_from_file_location("layers", ROOT / "tests" / "test_imports.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def distributions() -> list[str]:
    """Return the names of the families."""
    families = sorted((ROOT / "packages").glob("callbacks-*/pyproject.toml"))
    return [tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in families]


def wrapped(names: Iterable[str], width: float) -> Iterator[str]:
    """Yield lines of names that are not longer than `width`."""
    line = ""
    for name in names:
        longer = f"{line}, {name}" if line else name
        if line and len(longer) * CHARACTER > width:
            yield f"{line},"
            longer = name
        line = longer
    yield line


def draw() -> str:
    """Return the picture: the families above, the core's layers below, the lowest at the bottom."""
    layers = rules()
    parts, y = [], float(MARGIN)
    families = distributions()
    width = (WIDTH - 2 * MARGIN - 10 * (len(families) - 1)) / len(families)
    for number, distribution in enumerate(families):
        x = MARGIN + number * (width + 10)
        parts.append(box(x, y, width, 52, "amber"))
        start, family = distribution.rsplit("-", 1)
        parts += [text(x + 10, y + 22, f"{start}-", "quiet"), text(x + 10, y + 41, family, "strong")]
    y += 62
    told = "import public names of the core, and nothing of one another; are found by their entry points"
    parts.append(text(MARGIN, y + 12, told, "prose", "quiet"))
    y += 26
    top, place = y, len(parts)
    y += LINE + 14
    parts.append(text(MARGIN + 12, top + 22, "leyden", "strong"))
    parts.append(
        text(
            WIDTH - MARGIN - 12,
            top + 22,
            "a layer imports from itself and from those below",
            "prose",
            "quiet",
            end=True,
        )
    )
    every = list(zip(layers.LAYERS, layers.TITLES, COLOURS, strict=True))
    for names, title, colour in reversed(every):
        shown = [f"{name}/" if (layers.CORE / name.replace(".", "/")).is_dir() else name for name in sorted(names)]
        lines = list(wrapped(shown, WIDTH - MARGIN - 24 - NAMES_AT))
        height = LINE * len(lines) + 14
        parts.append(box(MARGIN + 12, y, WIDTH - 2 * MARGIN - 24, height, colour))
        parts.append(text(MARGIN + 24, y + 21, title, "prose", "strong"))
        parts += [text(NAMES_AT, y + 21 + LINE * number, line) for number, line in enumerate(lines)]
        y += height + 6
    parts.insert(place, box(MARGIN, top, WIDTH - 2 * MARGIN, y - top + 6, "page"))
    y += 6 + 10
    parts.append(box(MARGIN, y, WIDTH - 2 * MARGIN, 34, "grey"))
    parts.append(text(MARGIN + 12, y + 22, "torch", "strong"))
    told = "drives the devices; nothing else is required"
    parts.append(text(WIDTH - MARGIN - 12, y + 22, told, "prose", "quiet", end=True))
    return page(WIDTH, y + 34 + MARGIN, "The distributions, and the layers of the core", parts)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
