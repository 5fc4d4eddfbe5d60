"""Train PyTorch models with a loop you can read and callbacks you install."""

from __future__ import annotations

import gc

_collects = gc.isenabled()
gc.disable()  # what imports make lasts: passes over it and all of torch, some 60 ms each, would find nothing to free
try:
    from leyden import callbacks, lightning_paths, loggers, profilers
    from leyden.callback import Callback, Checkpoint, LambdaCallback
    from leyden.data.combined import CombinedLoader
    from leyden.datamodule import LightningDataModule
    from leyden.errors import MisconfigurationException, SIGTERMException
    from leyden.flops import measure_flops
    from leyden.gradients import grad_norm
    from leyden.hparams import AttributeDict
    from leyden.module import LightningModule
    from leyden.overrides import is_overridden
    from leyden.rank_zero import rank_zero_deprecation, rank_zero_info, rank_zero_only, rank_zero_warn
    from leyden.seed import isolate_rng, seed_everything
    from leyden.trainer import Trainer
    from leyden.types import EVALUATE_OUTPUT, PREDICT_OUTPUT, STEP_OUTPUT

    lightning_paths.add_paths()
finally:
    if _collects:
        gc.enable()

__version__ = "0.1.0"

__all__ = [
    "EVALUATE_OUTPUT",
    "PREDICT_OUTPUT",
    "STEP_OUTPUT",
    "AttributeDict",
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
    "callbacks",
    "grad_norm",
    "is_overridden",
    "isolate_rng",
    "loggers",
    "measure_flops",
    "profilers",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    "seed_everything",
]
