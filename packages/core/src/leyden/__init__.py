"""Train PyTorch models with a loop you can read and callbacks you install."""

from __future__ import annotations

from leyden.callback import Callback, Checkpoint, LambdaCallback
from leyden.data.combined import CombinedLoader
from leyden.datamodule import LightningDataModule
from leyden.errors import MisconfigurationException, SIGTERMException
from leyden.module import LightningModule
from leyden.seed import seed_everything
from leyden.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Checkpoint",
    "CombinedLoader",
    "LambdaCallback",
    "LightningDataModule",
    "LightningModule",
    "MisconfigurationException",
    "SIGTERMException",
    "Trainer",
    "__version__",
    "seed_everything",
]
