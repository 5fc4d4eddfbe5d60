"""Exact resume with every kind of optimisation and limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from leyden import LightningModule

Resumes = Callable[..., int]


class Net(LightningModule):
    """Dropout in training and random numbers in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3), nn.Linear(3, 1))
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(float(batch.sum()))
        loss: Tensor = self.net(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen.append(float(batch.sum()))
        self.log("val", self.net(batch).pow(2).mean() + torch.rand(()), on_step=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Lbfgs(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class Plateau(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "loss", "interval": "step", "frequency": 2},
        }


class OneCycle(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters())
        one_cycle = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=30)
        return [optimizer], [{"scheduler": one_cycle, "interval": "step"}]


class GivesUp(Net):
    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 else None


class Overflows(Net):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * (torch.inf if batch_idx == 2 else 1.0)


class TwoOptimizers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizers, list)
        assert isinstance(schedulers, list)
        self.manual_backward(loss)
        if batch_idx % 2:
            optimizers[0].step()
            optimizers[0].zero_grad()
            schedulers[0].step()
        optimizers[1].step()
        optimizers[1].zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        one = torch.optim.Adam(self.net[0].parameters(), lr=0.01)
        other = torch.optim.SGD(self.net[2].parameters(), lr=0.05, momentum=0.9)
        return [one, other], [lr_scheduler.ExponentialLR(one, 0.9), lr_scheduler.StepLR(other, 1)]


def fit_of(kind: type[Net]) -> Callable[[], dict[str, Any]]:
    def build() -> dict[str, Any]:
        data: Any = torch.linspace(-1, 1, 40).view(10, 4)
        loaders = {"train": DataLoader(data, batch_size=2, shuffle=True), "val": DataLoader(data, batch_size=5)}
        return {"module": kind(), **loaders}

    return build


CASES: dict[str, tuple[type[Net], dict[str, Any]]] = {
    "LBFGS": (Lbfgs, {"val_check_interval": 2}),
    "plateau by step": (Plateau, {"val_check_interval": 2}),
    "one cycle": (OneCycle, {"accumulate_grad_batches": 2}),
    "scaler": (Overflows, {"precision": "16-mixed"}),
    "manual": (TwoOptimizers, {"val_check_interval": 2}),
    "given up": (GivesUp, {"accumulate_grad_batches": 2, "val_check_interval": 2}),
    "limited": (Net, {"limit_train_batches": 3, "limit_val_batches": 1}),
    "max_steps": (Net, {"max_steps": 8, "accumulate_grad_batches": 2, "max_epochs": -1}),
    "validation across epochs": (Net, {"check_val_every_n_epoch": None, "val_check_interval": 3}),
    "every other epoch": (Net, {"check_val_every_n_epoch": 2, "max_epochs": 4}),
}


@pytest.mark.parametrize("case", CASES)
def test_goes_on_exactly(resumes_exactly: Resumes, case: str) -> None:
    kind, arguments = CASES[case]
    assert resumes_exactly(fit_of(kind), slice(1, -4, 2), **{"max_epochs": 3, **arguments}) >= 5
