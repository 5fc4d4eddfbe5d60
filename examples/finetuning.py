"""Learn the digits 0 to 4, then, from few images, 5 to 9: with what was learned frozen, and set free level by level.

Run it with ``python examples/finetuning.py``; ``--plot FILE`` draws what was trainable when (that needs matplotlib).
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import BackboneFinetuning
from leyden.tables import render_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPOCHS = 12
LAYERS = ("head", "layer2", "layer1", "stem")


def by_levels() -> BackboneFinetuning:
    """The upper layers first, since they know most of the old task; the lower the layer, the slower it learns."""
    return BackboneFinetuning(
        strategy={2: ["layer2"], 4: ["layer1"], 6: ["*"]},
        backbone_initial_ratio_lr=0.3,
        level_ratio_lr=0.5,
        train_bn=False,
    )


WAYS: dict[str, tuple[bool, Callable[[], list[leyden.Callback]]]] = {
    "from scratch": (False, list),
    "all from the start": (True, list),
    "head alone": (True, lambda: [BackboneFinetuning(EPOCHS, train_bn=False)]),
    "backbone from epoch 3": (True, lambda: [BackboneFinetuning(3, train_bn=False)]),
    "level by level": (True, lambda: [by_levels()]),
}
"""Each with whether it begins with the pretrained backbone."""


class Digits(leyden.LightningDataModule):
    """Images of five of the ten digits; of each, `images` for training (None: three quarters), the others for tests."""

    def __init__(self, first: int, images: int | None = None) -> None:
        super().__init__()
        self.first, self.images = first, images

    def setup(self, stage: str) -> None:
        digits = load_digits()
        pixels = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target) - self.first
        mine = [(labels == label).nonzero().flatten() for label in range(5)]
        counts = [self.images or len(one) * 3 // 4 for one in mine]
        train = torch.cat([one[:count] for one, count in zip(mine, counts, strict=True)])
        test = torch.cat([one[count:] for one, count in zip(mine, counts, strict=True)])
        self.train, self.test = (TensorDataset(pixels[part], labels[part]) for part in (train, test))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, 16, shuffle=True)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.test, 256)


class Classifier(leyden.LightningModule):
    """A backbone of three convolutions and a linear head for five digits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        for name, (before, after) in {"stem": (1, 16), "layer1": (16, 32), "layer2": (32, 32)}.items():
            layer = nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            self.backbone.add_module(name, layer if name == "layer2" else layer.append(nn.MaxPool2d(2)))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32 * 2 * 2, 5))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam([one for one in self.parameters() if one.requires_grad], lr=3e-3)


class WhatLearns(leyden.Callback):
    """Notes at the end of each epoch at which rate the weight of each layer learns, 0 where it is frozen."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: leyden.Trainer, pl_module: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        rate = {id(one): group["lr"] for group in groups for one in group["params"] if one.requires_grad}
        layers = {"head": pl_module.head[1], **{name: layer[0] for name, layer in pl_module.backbone.named_children()}}
        self.rates.append({name: float(rate.get(id(layers[name].weight), 0.0)) for name in LAYERS})


def train(module: Classifier, data: Digits, callbacks: list[leyden.Callback], max_epochs: int) -> float:
    """Train, and return the accuracy on the test images."""
    trainer = leyden.Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, callbacks=callbacks, discover_callbacks=False
    )
    trainer.fit(module, datamodule=data)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    return metrics["accuracy"]


def changes_of(rates: Sequence[dict[str, float]]) -> list[list[object]]:
    """Return a row for each epoch in which something is not as in the one before."""
    epochs = [epoch for epoch in range(len(rates)) if epoch == 0 or rates[epoch] != rates[epoch - 1]]
    return [[epoch, *(f"{rate:.2g}" if rate else "frozen" for rate in rates[epoch].values())] for epoch in epochs]


def draw(rates: Sequence[dict[str, float]]) -> Figure:
    """Draw for each layer and epoch the learning rate as a colour; frozen is left white."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    values = [[epoch[name] or float("nan") for epoch in rates] for name in reversed(LAYERS)]
    mesh = axes.pcolormesh(values, cmap="viridis", norm=LogNorm(), edgecolors="white")
    axes.set_yticks([row + 0.5 for row in range(len(LAYERS))], LAYERS[::-1])
    axes.set_xticks([epoch + 0.5 for epoch in range(len(rates))], [str(epoch) for epoch in range(len(rates))])
    axes.set_xlabel("epoch")
    figure.colorbar(mesh, label="learning rate")
    return figure


def main(arguments: Sequence[str] | None = None) -> list[list[object]]:
    """Pretrain, finetune in each way, print both tables, return the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="trainings in each way")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw what was trainable when to this file")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # images this small are quicker on one thread, much quicker on a busy machine
    logging.getLogger("leyden").setLevel(logging.WARNING)
    leyden.seed_everything(7)
    pretrained = Classifier()
    print(f"Digits 0 to 4: {train(pretrained, Digits(0), [], 8):.1%} right on test images")

    rows: list[list[object]] = []
    data, watch = Digits(5, images=3), WhatLearns()
    for name, (begins_pretrained, make) in WAYS.items():
        accuracies = []
        for seed in range(options.seeds):
            leyden.seed_everything(seed)
            module = Classifier()
            if begins_pretrained:
                module.backbone = copy.deepcopy(pretrained.backbone)
            watch = WhatLearns()
            accuracies.append(train(module, data, [*make(), watch], EPOCHS))
        trained = sum(one.numel() for one in module.parameters() if one.requires_grad)
        rows.append([name, f"{trained:,}", f"{statistics.mean(accuracies):.1%}", f"{min(accuracies):.1%}"])
    print("Digits 5 to 9, from 3 images each:")
    print(render_table(["finetuned", "trained parameters", "test accuracy", "worst run"], rows))

    print("What learns level by level, and at which rate, from the epoch on:")
    print(render_table(["epoch", *LAYERS], changes_of(watch.rates)))
    if options.plot is not None:
        draw(watch.rates).savefig(options.plot)
    return rows


if __name__ == "__main__":
    main()
