"""Train a CNN on scikit-learn's handwritten digits, go on as int8 will compute it, and compare the int8 model with it.

Run it with ``python examples/quantization.py``.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from digits import Classifier, Digits
from torch import nn

import leyden
from leyden.callbacks import QuantizationAwareTraining
from leyden.tables import render_table

FUSE = [["backbone.0", "backbone.1", "backbone.2"], ["backbone.4", "backbone.5", "backbone.6"], ["head.0", "head.1"]]
"""Convolution, BatchNorm and ReLU become one layer, and so do the hidden layer and its ReLU."""


class Wider(Classifier):
    """The classifier of digits.py with more channels: 141,120 weights, next to which a file's own bytes are few."""

    def __init__(self, learning_rate: float = 3e-3) -> None:
        super().__init__(learning_rate)
        self.backbone = nn.Sequential(
            *(nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(128 * 2 * 2, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, 10))


def trainer(max_epochs: int, *callbacks: leyden.Callback) -> leyden.Trainer:
    """Return a trainer that does nothing but train."""
    return leyden.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        discover_callbacks=False,
    )


def train(max_epochs: int) -> tuple[Wider, Wider]:
    """Return the model that was trained in floats, and the int8 one of a quarter as many epochs more."""
    leyden.seed_everything(7)
    floats, data = Wider(), Digits()
    trainer(max_epochs).fit(floats, datamodule=data)
    int8 = copy.deepcopy(floats)
    int8.learning_rate = floats.learning_rate / 10
    trainer(max(1, max_epochs // 4), QuantizationAwareTraining("x86", modules_to_fuse=FUSE)).fit(int8, datamodule=data)
    return floats, int8


def saved_and_loaded(int8: Wider, path: Path) -> Wider:
    """Return the int8 model as another process would load it."""
    torch.save(int8.state_dict(), path)
    return QuantizationAwareTraining("x86", modules_to_fuse=FUSE).load_int8(Wider(), path)


def milliseconds(module: nn.Module) -> float:
    """Return the time that 1,000 images take on one core, the best of several."""
    images, times = torch.rand(1000, 1, 8, 8), []
    with torch.inference_mode():
        for _ in range(20):
            start = time.process_time()
            module(images)
            times.append(time.process_time() - start)
    return min(times) * 1000


def main(arguments: Sequence[str] | None = None) -> list[list[object]]:
    """Train, quantise, save and load; print and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-epochs", type=int, default=12, metavar="N")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # images this small are quicker on one thread, much quicker on a busy machine
    logging.getLogger("leyden").setLevel(logging.WARNING)
    floats, int8 = train(options.max_epochs)
    rows: list[list[object]] = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        loaded = saved_and_loaded(int8, path)
        for name, module in (("float32", floats), ("int8", loaded)):
            torch.save(module.state_dict(), path)
            (metrics,) = trainer(1).test(module, datamodule=Digits(), verbose=False)
            kilobytes, time_ms = path.stat().st_size / 1000, milliseconds(module.eval())
            rows.append([name, f"{metrics['test_acc']:.1%}", f"{kilobytes:.0f} kB", f"{time_ms:.1f} ms"])
    print(render_table(["model", "test accuracy", "file", "1,000 images"], rows))
    return rows


if __name__ == "__main__":
    main()
