"""The cases, run by Lightning where it is installed. Nothing here is typed against it: it may not be there."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.digits import EPOCHS, DigitsSteps
from benchmarks.handwritten import net_for

__all__ = ["VERSION", "run", "train_digits"]

warnings.filterwarnings("ignore")  # its advice on workers and loggers is not what is measured
_lightning: Any = importlib.import_module("lightning.pytorch")
VERSION: str = importlib.import_module("lightning").__version__
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def _nothing(self: Any, *args: Any) -> None:
    pass


_Idle = type("_Idle", (_lightning.Callback,), {})
_HOOKS = {"on_train_batch_start": _nothing, "on_train_batch_end": _nothing}
_BatchHooks = type("_BatchHooks", (_lightning.Callback,), _HOOKS)


def run(case: Case, batches: Iterable[Any], folder: str) -> None:
    """One pass over ``batches``; a log file goes under ``folder``."""
    loggers = importlib.import_module("lightning.pytorch.loggers")
    callbacks = [_Idle() for _ in range(case.idle_callbacks)] + [_BatchHooks() for _ in range(case.batch_callbacks)]
    trainer = _lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=callbacks,
        logger=loggers.CSVLogger(folder) if case.logged else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    module = net_for(case, _lightning.LightningModule)
    if case.stage == "fit":
        trainer.fit(module, batches)
    elif case.stage == "validate":
        trainer.validate(module, batches, verbose=False)
    else:
        trainer.predict(module, batches)


_DigitsModule = type("_DigitsModule", (DigitsSteps, _lightning.LightningModule), {})


def train_digits(folder: Path, train: Any, val: Any) -> None:
    """The production run: five epochs on the digits, watched by everything that a production would have."""
    callbacks = importlib.import_module("lightning.pytorch.callbacks")
    loggers = importlib.import_module("lightning.pytorch.loggers")
    trainer = _lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=loggers.TensorBoardLogger(folder),
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
    )
    trainer.fit(_DigitsModule(), train, val)
    assert trainer.current_epoch == EPOCHS
