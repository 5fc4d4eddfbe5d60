"""The cases, run by Leyden."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import leyden
from benchmarks.cases import Case
from benchmarks.digits import EPOCHS, DigitsSteps
from benchmarks.handwritten import net_for
from leyden import callbacks
from leyden.loggers import CSVLogger
from leyden_monitoring import TensorBoardLogger

__all__ = ["VERSION", "run", "train_digits"]

VERSION = leyden.__version__
logging.getLogger("leyden").setLevel(logging.WARNING)  # why a run ended is of no interest here


class _Idle(leyden.Callback):
    """Overrides nothing."""


class _BatchHooks(leyden.Callback):
    """Overrides both batch hooks of training."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pass

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pass


def run(case: Case, batches: Iterable[Any], folder: str) -> None:
    """One pass over ``batches``; a log file goes under ``folder``."""
    callbacks: list[leyden.Callback] = [_Idle() for _ in range(case.idle_callbacks)]
    callbacks += [_BatchHooks() for _ in range(case.batch_callbacks)]
    trainer = leyden.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=callbacks,
        logger=CSVLogger(folder) if case.logged else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        discover_callbacks=False,
    )
    module = net_for(case, leyden.LightningModule)
    if case.stage == "fit":
        trainer.fit(module, batches)
    elif case.stage == "validate":
        trainer.validate(module, batches, verbose=False)
    else:
        trainer.predict(module, batches)


def train_digits(folder: Path, train: Any, val: Any) -> None:
    """The production run: five epochs on the digits, watched by everything that a production would have."""
    trainer = leyden.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=TensorBoardLogger(folder),
        callbacks=[
            callbacks.TQDMProgressBar(),
            callbacks.LearningRateMonitor(),
            callbacks.DeviceStatsMonitor(),
            callbacks.ThroughputMonitor(batch_size_fn=lambda batch: batch[0].size(0)),
            callbacks.EarlyStopping("val_loss"),
            callbacks.ModelCheckpoint(monitor="val_loss", save_last=True),
        ],
        enable_model_summary=False,
        default_root_dir=folder,
        discover_callbacks=False,
    )
    trainer.fit(_DigitsModule(), train, val)
    assert trainer.current_epoch == EPOCHS


class _DigitsModule(DigitsSteps, leyden.LightningModule):
    """The digits' MLP as Leyden trains it."""
