"""A module and a data set that are small, random and complete."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leyden.module import LightningModule

__all__ = ["BoringModule", "RandomDataset"]


class RandomDataset(Dataset[Tensor]):
    """`length` rows of `size` standard normal numbers, the same ones each time for one `seed`.

    Example:
        >>> len(RandomDataset(4, 6)), RandomDataset(4, 6)[0].shape
        (6, torch.Size([4]))
    """

    def __init__(self, size: int, length: int, seed: int = 0) -> None:
        self.data = torch.randn(length, size, generator=torch.Generator().manual_seed(seed))

    def __getitem__(self, index: int) -> Tensor:
        row: Tensor = self.data[index]
        return row

    def __len__(self) -> int:
        return len(self.data)


class BoringModule(LightningModule):
    """A linear layer that learns to give small numbers, with data of its own for every stage.

    `batches` says how many batches of 2 rows each stage has. `training_step` logs and returns the loss under
    ``train_loss``; validation and test log ``val_loss`` and ``test_loss`` and return nothing; predict returns outputs.

    Example:
        >>> module = BoringModule()
        >>> module(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
        >>> len(module.val_dataloader())
        1
    """

    def __init__(self, in_features: int = 4, out_features: int = 2, batches: dict[str, int] | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(in_features, out_features)
        self._batches = {"train": 2, "val": 1, "test": 2, "predict": 2} | (batches or {})

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.layer(batch)
        return output

    def loss(self, batch: Tensor) -> Tensor:
        """Return the mean square of the outputs, a 0-d tensor."""
        return self(batch).square().mean()  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Tensor]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Tensor]:
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Tensor]:
        return self._loader("predict")

    def _loader(self, stage: str) -> DataLoader[Tensor]:
        return DataLoader(RandomDataset(self.layer.in_features, 2 * self._batches[stage]), batch_size=2)
