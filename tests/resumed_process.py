"""A training that runs in a process of its own, one of each kind that another process is to go on with exactly.

It writes a line for each batch to ``seen.txt``, and at its end all that a checkpoint would hold to ``end.pt``.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump

__all__ = ["KINDS", "train"]

STOP: dict[str, Any] = {}


class Noisy(Dataset[Tensor]):
    """Items with noise from every generator; without it where workers draw, who begin anew in a resumed epoch."""

    def __init__(self, noise: bool = True) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        item = torch.linspace(-1, 1, 4) * index + 0.1 * index
        return item + 0.1 * (torch.rand(4) + random.random() + float(np.random.rand())) if self.noise else item


class Net(LightningModule):
    """Dropout, batch norm, and random numbers in validation; it ends its process as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 1))

    def loss(self, batch: Any) -> Tensor:
        parts: list[Tensor] = tree_leaves(batch)
        with Path(self.trainer.default_root_dir, "seen.txt").open("a") as file:
            file.write(f"{self.training} {[part.sum().item() for part in parts]}\n")
        if not self.trainer.sanity_checking and STOP:
            STOP["left"] -= 1
            if STOP["left"] == 0:
                if STOP["how"] == "raise":
                    raise RuntimeError("stopped")
                os.kill(os.getpid(), signal.SIGKILL if STOP["how"] == "kill" else signal.SIGTERM)
        return torch.stack([cast(Tensor, self.head(self.backbone(part))).pow(2).mean() for part in parts]).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=2)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", self.loss(batch) + torch.rand(()), on_step=True, on_epoch=True, batch_size=2)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [lr_scheduler.StepLR(optimizer, 1, 0.9)]


class Plateau(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "loss", "interval": "step"}}


class Lbfgs(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)


class Scaled(Net):
    """Every third batch overflows, which the scaler answers."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * (torch.inf if batch_idx == 2 else 1.0)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Manual(Net):
    """Steps every other batch, with the gradients of both."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        self.manual_backward(loss)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()
        return loss


class Finetuned(Net):
    def configure_optimizers(self) -> Any:
        named = [(name, one) for name, one in self.named_parameters() if one.requires_grad]
        optimizer = torch.optim.Adam([{"params": named, "name": "first"}], lr=0.05)
        return [optimizer], [lr_scheduler.ExponentialLR(optimizer, 0.9)]


def plain(workers: int = 0) -> Any:
    return DataLoader(Noisy(not workers), batch_size=2, shuffle=True, num_workers=workers)


def stateful(workers: int = 0) -> Any:
    module = importlib.import_module("torchdata.stateful_dataloader")
    with warnings.catch_warnings(action="ignore"):  # it calls what torch has deprecated
        return module.StatefulDataLoader(Noisy(not workers), batch_size=2, shuffle=True, num_workers=workers)


def callbacks() -> list[Callback]:
    return [EarlyStopping("val", patience=6), LearningRateMonitor(), BackboneFinetuning(1, lambda epoch: 1.5)]


def _several() -> Any:
    return {"long": plain(), "short": DataLoader(Noisy(), batch_size=3, shuffle=True)}


WINDOWS: dict[str, Any] = {"accumulate_grad_batches": 2}
KINDS: dict[str, tuple[type[Net], Callable[[], Any], dict[str, Any]]] = {
    "plain": (Net, plain, WINDOWS),
    "plain with workers": (Net, lambda: plain(2), WINDOWS),
    "stateful": (Net, stateful, WINDOWS),
    "stateful with workers": (Net, lambda: stateful(2), WINDOWS),
    "several loaders": (Net, _several, WINDOWS),
    "bf16": (Net, plain, {**WINDOWS, "precision": "bf16-mixed"}),
    "scaler": (Scaled, plain, {"precision": "16-mixed"}),
    "plateau": (Plateau, plain, WINDOWS),
    "LBFGS": (Lbfgs, plain, {}),
    "manual": (Manual, plain, {}),
    "callbacks": (Finetuned, plain, WINDOWS),
}
"""What is trained, the loader it is trained with, and the trainer's arguments."""


def train(folder: Path, kind: str, seed: int, ckpt_path: str | None, stop: str, at: int) -> None:
    """Train in `folder`; end as `stop` says, "kill", "term" or "raise", in the `at`-th batch of either loop."""
    STOP.update({"how": stop, "left": at} if stop else {})
    multiprocessing.set_start_method("fork", force=True)  # of workers, who else would be begun as this process was
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    module, loader, arguments = KINDS[kind]
    periodic = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)
    others = callbacks() if kind == "callbacks" else []
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, val_check_interval=3, log_every_n_steps=1, logger=CSVLogger(folder),
        default_root_dir=folder, callbacks=[*others, periodic, OnExceptionCheckpoint(folder)],
        discover_callbacks=False, **arguments,
    )  # fmt: skip
    val = [DataLoader(Noisy(), batch_size=6, shuffle=True), DataLoader(Noisy(), batch_size=12)]
    net = module()
    trainer.fit(net, loader(), val if kind == "several loaders" else val[0], ckpt_path=ckpt_path)
    end = dump(trainer)
    del end["loggers"], end["callbacks"][periodic.state_key]  # which hold paths
    del end["loops"]["fit_loop"]["draws"]  # of loaders that will not be read again
    rows = Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines()
    torch.save({"end": end, "rows": rows}, Path(folder, "end.pt"))
