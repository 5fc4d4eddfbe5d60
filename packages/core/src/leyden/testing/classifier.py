"""A small module with everything that callbacks look for: what `check_callback` trains unless it is given another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from leyden.module import LightningModule

__all__ = ["TinyClassifier"]

_FEATURES, _CLASSES = 4, 3


class TinyClassifier(LightningModule):
    """A `backbone` with BatchNorm and a `head` with dropout that tell three classes apart, with data for each stage.

    It logs ``train_loss`` per step and epoch, ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc``; its SGD has
    momentum and a scheduler per step. An epoch has 8 batches of `batch_size` = 4 pairs of float32 ``[4, 4]`` and int64
    ``[4]``, drawn anew each time; the other stages have two batches. `lr`, `batch_size` and `example_input_array` are
    there for those who look for them.

    Args:
        automatic_optimization: False lets `training_step` drive the optimizer, which steps every other batch.
        val_loaders: how many validation dataloaders there are; what is logged of the first has no suffix.

    Example:
        >>> module = TinyClassifier()
        >>> module(module.example_input_array).shape
        torch.Size([4, 3])
    """

    def __init__(self, automatic_optimization: bool = True, val_loaders: int = 1) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(_FEATURES, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, _CLASSES))
        self.automatic_optimization = automatic_optimization
        self.batch_size, self.lr = 4, 0.1
        self.example_input_array = torch.zeros(4, _FEATURES)
        self._val_loaders = val_loaders

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits ``[N, 3]`` of rows ``[N, 4]``."""
        logits: Tensor = self.head(self.backbone(rows))
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        rows, classes = batch
        loss = nn.functional.cross_entropy(self(rows), classes)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(rows))
        if not self.automatic_optimization:
            self._step_by_hand(loss, batch_idx)
        return loss

    def _step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(loss)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()
            self.lr_schedulers().step()

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch, add_dataloader_idx=dataloader_idx > 0)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        logits: Tensor = self(batch[0])
        return logits

    def _evaluate(self, stage: str, batch: list[Tensor], **options: Any) -> None:
        rows, classes = batch
        logits = self(rows)
        right = (logits.argmax(dim=1) == classes).float().mean()
        loss = nn.functional.cross_entropy(logits, classes)
        self.log_dict({f"{stage}_loss": loss, f"{stage}_acc": right}, prog_bar=True, batch_size=len(rows), **options)

    def configure_optimizers(self) -> Any:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=self.lr, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train_dataloader(self) -> Any:
        return DataLoader(_data(32), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        loaders = [DataLoader(_data(8), batch_size=self.batch_size) for _ in range(self._val_loaders)]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> Any:
        return DataLoader(_data(8), batch_size=self.batch_size)

    def predict_dataloader(self) -> Any:
        return DataLoader(_data(8), batch_size=self.batch_size)


def _data(rows: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(rows)
    classes = torch.arange(rows) % _CLASSES
    centres = torch.eye(_CLASSES, _FEATURES)
    return TensorDataset(2 * centres[classes] + torch.randn(rows, _FEATURES, generator=generator), classes)
