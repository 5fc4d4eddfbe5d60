"""Draws what averages and pruning do to a CNN on scikit-learn's digits. ``python docs/pictures_optim.py``.

It needs matplotlib; the pictures are in the repository, so that the site builds without.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import leyden
from leyden.callbacks import EMAWeightAveraging, ModelPruning

PICTURES = Path(__file__).parent / "pictures"
sys.path.append(str(PICTURES.parents[1] / "examples"))

from averaging import Noisy  # noqa: E402
from digits import Classifier, Digits  # noqa: E402
from pruning import LAYERS, WAYS, gradually  # noqa: E402


class Scores(leyden.Callback):
    """Keeps the accuracy of each validation, and how much was pruned after that epoch."""

    def __init__(self, pruning: ModelPruning | None = None) -> None:
        self.accuracy: list[float] = []
        self.sparsity: list[float] = []
        self._pruning = pruning

    def on_validation_end(self, trainer: leyden.Trainer, pl_module: leyden.LightningModule) -> None:
        self.accuracy.append(100 * float(trainer.callback_metrics["val_acc"]))

    def on_train_epoch_end(self, trainer: leyden.Trainer, pl_module: leyden.LightningModule) -> None:
        if self._pruning is not None:
            self.sparsity.append(100 * self._pruning.total_sparsity())


def train(module: Callable[[], Classifier], seed: int, max_epochs: int, *callbacks: leyden.Callback) -> None:
    """Train with a validation after each epoch."""
    leyden.seed_everything(seed, verbose=False)
    trainer = leyden.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        discover_callbacks=False,
    )
    trainer.fit(module(), datamodule=Digits())


def draw(name: str, series: dict[str, list[float]], label: str, *, low: float) -> None:
    """Draw one line for each of `series`, over epochs; the first one dashed."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "leyden"  # names in the file that are the same each time
    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, which is a quarter of the size
    import matplotlib.pyplot as plt

    figure: Any
    figure, axes = plt.subplots(layout="constrained", figsize=(7, 3))
    for number, (legend, values) in enumerate(series.items()):
        style: Any = {"color": "grey", "linestyle": "--"} if not number else {"marker": "o", "markersize": 3}
        axes.plot(range(1, len(values) + 1), values, label=legend, **style)
        print(f"{name}: {legend}: {', '.join(f'{value:.1f}' for value in values)}")
    axes.set(xlabel="Epoch", ylabel=label, ylim=(low, 101))
    axes.legend()
    figure.savefig(PICTURES / name, metadata={"Date": None})


def averages() -> None:
    """Validate one training with its own weights and with their average."""
    series = {}
    for legend, callbacks in (("trained weights", []), ("their average", [EMAWeightAveraging(decay=0.98)])):
        scores = Scores()
        train(lambda: Noisy(learning_rate=0.2), 1, 12, *callbacks, scores)
        series[legend] = scores.accuracy
    draw("averages.svg", series, "Validation accuracy in %", low=60)


def sparsity() -> None:
    """Prune in five epochs in three ways, and see what the accuracy does then and afterwards."""
    series: dict[str, list[float]] = {}
    for legend in ("smallest", "smallest, lottery ticket", "at random"):
        pruning = ModelPruning(parameters_to_prune=LAYERS, amount=gradually, **(WAYS[legend] or {}))
        scores = Scores(pruning)
        train(Classifier, 7, 12, pruning, scores)
        series.setdefault("weights pruned", scores.sparsity)
        series[f"accuracy, {legend}"] = scores.accuracy
    draw("sparsity.svg", series, "%", low=-2)


def main() -> None:
    """Draw both."""
    torch.set_num_threads(1)
    logging.getLogger("leyden").setLevel(logging.WARNING)
    averages()
    sparsity()


if __name__ == "__main__":
    main()
