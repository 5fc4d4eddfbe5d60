"""Modules that are small and complete: with data of their own for every stage, they train at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from leyden.module import LightningModule
from leyden.testing.data import RandomDataset

__all__ = ["BoringModule", "ManualModule", "SeveralLoadersModule"]


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


class ManualModule(BoringModule):
    """The same in manual optimisation, with two optimizers that both step at every batch.

    SGD at 0.1 for ``layer``, Adam at 0.01 for ``other``, a layer behind it; ``trainer.global_step`` counts steps of
    both.

    Example:
        >>> from leyden import Trainer
        >>> trainer = Trainer(max_epochs=1, logger=False, discover_callbacks=False)
        >>> trainer.fit(ManualModule())
        >>> trainer.num_training_batches, trainer.global_step
        (2, 4)
    """

    def __init__(self, in_features: int = 4, out_features: int = 2, batches: dict[str, int] | None = None) -> None:
        super().__init__(in_features, out_features, batches)
        self.automatic_optimization = False
        self.other = torch.nn.Linear(out_features, out_features)

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.other(self.layer(batch))
        return output

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        for optimizer in self.optimizers():
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        first = torch.optim.SGD(self.layer.parameters(), lr=0.1)
        return [first, torch.optim.Adam(self.other.parameters(), lr=0.01)]


class SeveralLoadersModule(BoringModule):
    """The same with several dataloaders for validation, test and prediction; metrics have ``/dataloader_idx_N`` each.

    Example:
        >>> from leyden import Trainer
        >>> trainer = Trainer(logger=False, discover_callbacks=False)
        >>> [sorted(metrics) for metrics in trainer.validate(SeveralLoadersModule(loaders=2), verbose=False)]
        [['val_loss/dataloader_idx_0'], ['val_loss/dataloader_idx_1']]
    """

    def __init__(
        self,
        in_features: int = 4,
        out_features: int = 2,
        batches: dict[str, int] | None = None,
        loaders: int = 2,
    ) -> None:
        super().__init__(in_features, out_features, batches)
        self._loaders = loaders

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        super().validation_step(batch, batch_idx)

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        super().test_step(batch, batch_idx)

    def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self(batch)

    def val_dataloader(self) -> Any:
        return self._loader_of("val")

    def test_dataloader(self) -> Any:
        return self._loader_of("test")

    def predict_dataloader(self) -> Any:
        return self._loader_of("predict")

    def _loader_of(self, stage: str) -> list[DataLoader[Tensor]]:
        rows = 2 * self._batches[stage]
        sets = [RandomDataset(self.layer.in_features, rows, seed) for seed in range(self._loaders)]
        return [DataLoader(one, batch_size=2) for one in sets]
