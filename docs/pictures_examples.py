"""Makes the pictures of `examples.md` by running the examples: ``python docs/pictures_examples.py [NAME ...]``.

Each leaves ``NAME.png`` in the folder it is given; the pictures are in the repository, so that the site builds without.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples" / "callbacks"
PICTURES = Path(__file__).parent / "pictures"
NAMES = ("online_probe", "gradient_flip", "latent_walk", "sampling")


def main() -> None:
    """Run the examples with these names, or all."""
    for name in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, EXAMPLES / f"{name}.py", "--folder", folder], check=True)
            shutil.copyfile(Path(folder, f"{name}.png"), PICTURES / f"example_{name}.png")


if __name__ == "__main__":
    main()
