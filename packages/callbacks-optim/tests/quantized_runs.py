"""Modules and trainers for the tests of QuantizationAwareTraining."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer

__all__ = ["FUSE", "IMAGES", "Net", "make", "net", "weights_of"]

FUSE = [["conv", "bn", "relu"]]
IMAGES = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(3))


class Net(LightningModule):
    """A convolution with BatchNorm and ReLU, and a linear layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn(self.conv(images)))
        scores: Tensor = self.fc(features.flatten(1))
        return scores

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = (self(batch) - 1).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", (self(batch) - 1).square().mean())

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test", (self(batch) - 1).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def train_dataloader(self) -> Any:
        return DataLoader(IMAGES[:16], batch_size=4)  # type: ignore[arg-type]  # a tensor is a dataset

    def val_dataloader(self) -> Any:
        return DataLoader(IMAGES[16:], batch_size=4)  # type: ignore[arg-type]

    def test_dataloader(self) -> Any:
        return self.val_dataloader()


def weights_of(layer: Any) -> torch.dtype:
    """Return the type of the weights of an int8 layer, a method there."""
    dtype: torch.dtype = layer.weight().dtype
    return dtype


def make(*callbacks: Callback, max_epochs: int = 2, **settings: Any) -> Trainer:
    return Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks),
        discover_callbacks=False, **settings,
    )  # fmt: skip


def net(kind: type[Net] = Net) -> Net:
    torch.manual_seed(5)
    return kind()
