"""Draws what learns when, level by level, in `examples/finetuning.py`. ``python docs/pictures_finetuning.py``.

It needs matplotlib; the picture is in the repository, so that the site builds without.
"""

from __future__ import annotations

import sys
from pathlib import Path

import leyden

PICTURE = Path(__file__).parent / "pictures" / "finetuning.svg"
sys.path.append(str(PICTURE.parents[2] / "examples"))

from finetuning import EPOCHS, Classifier, Digits, WhatLearns, by_levels, draw, train  # noqa: E402


def main() -> None:
    """Finetune by levels, and draw the learning rates there were."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "leyden"  # names in the file that are the same each time
    leyden.seed_everything(0)
    watch = WhatLearns()
    train(Classifier(), Digits(5, images=3), [by_levels(), watch], EPOCHS)
    draw(watch.rates).savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE.name}: {len(watch.rates)} epochs")


if __name__ == "__main__":
    main()
