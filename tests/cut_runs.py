"""Runs that are cut within an epoch of their second half and gone on with, beside those that nobody cuts."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump

__all__ = ["DATA", "EPOCHS", "Cut", "Manual", "Net", "Setting", "ends", "train"]

DATA = torch.linspace(-1, 1, 40).sin().view(10, 4)
EPOCHS = 4
CUT_AT = (2, 3)  # epoch and batch: the second of a window of two


class Cut(Exception):
    """Ends a run as a crash would."""


class Net(LightningModule):
    """A backbone with BatchNorm, a head with dropout, both in `forward`; one step raises where it `is_to_be_cut`."""

    is_to_be_cut = False
    batch_size = 2
    lr = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 1))

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.head(self.backbone(batch))
        return output

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        trainer = self.trainer
        is_trial = trainer.max_epochs == -1  # of a finder, which has epochs of its own
        if self.is_to_be_cut and not is_trial and (trainer.current_epoch, batch_idx) == CUT_AT:
            raise Cut
        loss: Tensor = (self(batch) - 1).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", (self(batch) - 1).pow(2).mean() + torch.rand(()), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam([one for one in self.parameters() if one.requires_grad], lr=self.lr)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> Any:
        return DataLoader(DATA, batch_size=self.batch_size, shuffle=True)  # type: ignore[arg-type]  # a tensor is one

    def val_dataloader(self) -> Any:
        return DataLoader(DATA[:8], batch_size=4, shuffle=True)  # type: ignore[arg-type]


class Manual(Net):
    """Two optimizers that the training step drives; that of the backbone gathers gradients over two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        of_head, of_backbone = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        of_head.step()
        of_head.zero_grad()
        if batch_idx % 2:
            of_backbone.step()
            of_backbone.zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        backbone = [one for one in self.backbone.parameters() if one.requires_grad]
        return [torch.optim.Adam(self.head.parameters(), lr=0.05), torch.optim.SGD(backbone, lr=0.05, momentum=0.9)]


@dataclass
class Setting:
    """What a run has.

    Attributes:
        callbacks: makes them, of the run's folder.
        arguments: of the trainer.
        varies: what in the states of callbacks and in the names of columns is never twice the same, such as times.
        prepare: called with the trainer before it fits.
    """

    callbacks: Callable[[Path], list[Callback]] = lambda folder: []
    arguments: dict[str, Any] = field(default_factory=dict)
    net: type[Net] = Net
    varies: tuple[str, ...] = ()
    prepare: Callable[[Trainer], Any] = lambda trainer: None

    def beside(self, other: Setting) -> Setting:
        """Return both in one trainer, this one's callbacks first."""
        return Setting(
            lambda folder: [*self.callbacks(folder), *other.callbacks(folder)],
            {**self.arguments, **other.arguments},
            self.net if self.net is not Net else other.net,
            (*self.varies, *other.varies),
        )


def train(
    folder: Path, setting: Setting, *savers: Callback, seed: int = 1, cut: bool = False, **fit: Any
) -> tuple[Trainer, Net, dict[str, Any]]:
    """Fit in `folder`; return, with trainer and module, all that another run that is the same would have, too."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    module = setting.net()
    module.is_to_be_cut = cut
    arguments = {"max_epochs": EPOCHS, "log_every_n_steps": 2, "val_check_interval": 2, **setting.arguments}
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder),
        callbacks=[*setting.callbacks(folder), *savers],
        discover_callbacks=False,
        default_root_dir=folder,
        **arguments,
    )
    setting.prepare(trainer)
    trainer.fit(module, **fit)
    end = dump(trainer)
    del end["loggers"], end["loops"]["fit_loop"]["draws"]  # of loaders that will not be read again
    for saver in savers:
        end["callbacks"].pop(saver.state_key, None)
    return trainer, module, {
        "end": _without(end, setting.varies),
        "metrics": _without(dict(trainer.callback_metrics), setting.varies),
        "rows": [_without(row, setting.varies) for row in _rows(Path(trainer.log_dir or "", "metrics.csv"))],
        "output": module.eval()(DATA),
    }  # fmt: skip


def _without(values: Any, varies: tuple[str, ...]) -> Any:
    if not isinstance(values, dict):
        return values
    kept = {key: value for key, value in values.items() if not any(part in str(key) for part in varies)}
    return {key: _without(value, varies) for key, value in kept.items()}


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():  # nothing was left to train
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def ends(folder: Path, setting: Setting) -> Iterator[tuple[str, Trainer, Net, dict[str, Any]]]:
    """Yield the end of a run that is not cut, then of those that go on with what a cut one has left.

    Each of them writes in the same folder, since states hold paths, and finds in it what the cut one would leave.
    """
    run, left = folder / "run", folder / "left"

    def savers() -> list[Callback]:
        periodic = ModelCheckpoint(run / "periodic", "{step}", save_top_k=-1, every_n_train_steps=1)
        periodic.name = "periodic"
        return [periodic, OnExceptionCheckpoint(run)]

    yield "whole", *train(run, setting, *savers())
    shutil.rmtree(run)
    with pytest.raises(Cut):
        train(run, setting, *savers(), cut=True)
    shutil.copytree(run, left)
    periodic = max((run / "periodic").iterdir(), key=lambda path: int(path.stem.removeprefix("step=")))
    for seed, path in enumerate((periodic, run / "on_exception.ckpt"), start=50):
        yield f"after {path.name}", *train(run, setting, *savers(), seed=seed, ckpt_path=path)
        shutil.rmtree(run)
        shutil.copytree(left, run)
