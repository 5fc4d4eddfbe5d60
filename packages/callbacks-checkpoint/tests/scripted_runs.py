"""Trainings whose scores are given, with a ModelCheckpoint, and what is in its folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint

__all__ = ["Scripted", "fit", "listing", "saved", "steps"]


class Scripted(BoringModule):
    """Four training batches an epoch; the n-th validation logs the n-th of the given scores."""

    def __init__(self, scores: Sequence[float] = (), name: str = "val_loss", batches: int = 4) -> None:
        super().__init__(batches={"train": batches})
        self.scores, self.name, self.validations = list(scores), name, 0

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.scores:
            self.log(self.name, self.scores[min(self.validations, len(self.scores) - 1)])

    def on_validation_end(self) -> None:
        self.validations += not self.trainer.sanity_checking


def fit(checkpoint: Callback | list[Callback], module: LightningModule | None = None, **settings: Any) -> Trainer:
    settings = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0, "discover_callbacks": False} | settings
    trainer = Trainer(callbacks=checkpoint, **settings)
    trainer.fit(module or Scripted([1.0]))
    return trainer


def listing(folder: str | Path | None) -> list[str]:
    assert folder is not None
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def saved(checkpoint: ModelCheckpoint, name: str) -> dict[str, Any]:
    assert checkpoint.dirpath is not None
    content: dict[str, Any] = torch.load(os.path.join(checkpoint.dirpath, name), weights_only=True)
    return content


def steps(checkpoint: ModelCheckpoint) -> dict[str, int]:
    """The optimizer step of each file there is."""
    return {name: saved(checkpoint, name)["global_step"] for name in listing(checkpoint.dirpath)}
