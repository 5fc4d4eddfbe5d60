"""Train a small CNN on scikit-learn's handwritten digits in large steps, with averaged weights and without.

Run it with ``python examples/averaging.py``.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from digits import Classifier, Digits

import leyden
from leyden.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from leyden.tables import render_table


class Noisy(Classifier):
    """The CNN of ``digits.py`` with plain SGD, whose steps are so large that the last one may be a bad one."""

    def configure_optimizers(self) -> dict[str, object]:
        return {"optimizer": torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)}


class LastEpochs(WeightAveraging):
    """Averages the ends of all epochs but the first three."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None and epoch_idx >= 3


WAYS: dict[str, Callable[[], list[leyden.Callback]]] = {
    "none": list,
    "EMAWeightAveraging(decay=0.98)": lambda: [EMAWeightAveraging(decay=0.98)],
    "WeightAveraging, from the fourth epoch": lambda: [LastEpochs(use_buffers=True)],
    "StochasticWeightAveraging(0.05, 4)": lambda: [StochasticWeightAveraging(0.05, 4, annealing_epochs=1)],
}


def train(callbacks: list[leyden.Callback], seed: int, max_epochs: int) -> tuple[float, float]:
    """Return the accuracy on the test images and the seconds of CPU that the fit took."""
    leyden.seed_everything(seed)
    trainer = leyden.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        callbacks=callbacks,
        discover_callbacks=False,
    )
    module, data = Noisy(learning_rate=0.2), Digits()
    start = time.process_time()
    trainer.fit(module, datamodule=data)
    seconds = time.process_time() - start
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    return metrics["test_acc"], seconds


def main(arguments: Sequence[str] | None = None) -> list[list[object]]:
    """Train a few times in each way, print and return the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-epochs", type=int, default=8, metavar="N")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="trainings in each way")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # images this small are quicker on one thread, much quicker on a busy machine
    logging.getLogger("leyden").setLevel(logging.WARNING)
    rows: list[list[object]] = []
    for name, make in WAYS.items():
        runs = [train(make(), seed, options.max_epochs) for seed in range(options.seeds)]
        accuracies = [accuracy for accuracy, _ in runs]
        seconds = statistics.median(seconds for _, seconds in runs)
        rows.append([name, f"{statistics.mean(accuracies):.1%}", f"{min(accuracies):.1%}", f"{seconds:.2f} s"])
    print(render_table(["average", "test accuracy", "worst run", "training"], rows))
    return rows


if __name__ == "__main__":
    main()
