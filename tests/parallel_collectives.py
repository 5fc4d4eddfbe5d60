"""Every message that a run sends through its process group, by PyTorch's profiler, and what the run was doing then."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from tests.parallel_data import Numbers, trainer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer

__all__ = ["HIDDEN", "messages"]

HIDDEN = 8

_MARK = "during:"


class Marks(Callback):
    """Says in the profile what goes on."""

    def _mark(self, name: str) -> None:
        with record_function(_MARK + name):
            pass

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("start of training")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._mark(f"step {trainer.global_step}")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._mark("step is over")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("validation")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("validation is over")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("epoch is over")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark("end of fit")


class Small(LightningModule):
    """Two layers and a BatchNorm's buffers; logs a loss of steps and epochs, and one of the validation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(4, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, 1)

    def _loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.second(self.norm(self.first(batch)).relu()).square().mean()
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.001)


def messages(strategy: str) -> list[tuple[str, str, int]]:
    """Train for an epoch of five steps; return what went on, the collective and its number of elements, in order."""
    run = trainer(strategy, log_every_n_steps=2, callbacks=[Marks()])
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        run.fit(Small(), DataLoader(Numbers(20), batch_size=2), DataLoader(Numbers(6), batch_size=2))
    events = sorted(profiled.events(), key=lambda event: event.time_range.start)
    found, during = [], "setup"
    for event in events:
        if event.name.startswith(_MARK):
            during = event.name.removeprefix(_MARK)
        elif event.name.startswith("gloo:"):
            shapes = [shape for shape in event.input_shapes if shape]
            elements = sum(torch.Size(shape).numel() for shape in shapes[:1])
            found.append((during, event.name.removeprefix("gloo:"), elements))
    return list(_settled(found))


def _settled(found: list[tuple[str, str, int]]) -> Iterator[tuple[str, str, int]]:
    """Larger broadcasts first: two of DDP's that follow each other begin in two threads of gloo, in either order."""
    for (_, collective), neighbours in groupby(found, key=itemgetter(0, 1)):
        there = list(neighbours)
        yield from sorted(there, key=itemgetter(2), reverse=True) if collective == "broadcast" else there
