"""One place to import callbacks from, whichever distribution holds them.

``from leyden.callbacks import ModelCheckpoint`` finds the installed family that has it. Nothing of a family is imported
before one of its names is asked for; where the family is missing, the ImportError says which ``pip install`` mends it.
The paths of Lightning's documentation, ``leyden.callbacks.early_stopping`` and the like, hold the same classes.

Example:
    >>> from leyden.callbacks import LambdaCallback
    >>> LambdaCallback(on_train_start=lambda trainer, pl_module: print("off we go")).state_key
    'LambdaCallback'
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback, Checkpoint, LambdaCallback
from leyden.callback_paths import add_paths
from leyden.errors import did_you_mean

if TYPE_CHECKING:
    from leyden_checkpoint import BasePredictionWriter, ModelCheckpoint, OnExceptionCheckpoint
    from leyden_finetune import BackboneFinetuning, BaseFinetuning
    from leyden_monitoring import (
        DeviceStatsMonitor,
        GPUStatsMonitor,
        Heartbeat,
        LearningRateMonitor,
        ModelSummary,
        ProgressBar,
        ProgressBarBase,
        PrometheusExporter,
        RichModelSummary,
        RichProgressBar,
        ThroughputMonitor,
        TQDMProgressBar,
    )
    from leyden_optim import (
        BatchSizeFinder,
        EarlyStopping,
        EMAWeightAveraging,
        GradientAccumulationScheduler,
        LearningRateFinder,
        ModelPruning,
        QuantizationAwareTraining,
        SpikeDetection,
        StochasticWeightAveraging,
        Timer,
        WeightAveraging,
    )

__all__ = [
    "BackboneFinetuning",
    "BaseFinetuning",
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Callback",
    "Checkpoint",
    "DeviceStatsMonitor",
    "EMAWeightAveraging",
    "EarlyStopping",
    "GPUStatsMonitor",
    "GradientAccumulationScheduler",
    "Heartbeat",
    "LambdaCallback",
    "LearningRateFinder",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelPruning",
    "ModelSummary",
    "OnExceptionCheckpoint",
    "ProgressBar",
    "ProgressBarBase",
    "PrometheusExporter",
    "QuantizationAwareTraining",
    "RichModelSummary",
    "RichProgressBar",
    "SpikeDetection",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "ThroughputMonitor",
    "Timer",
    "WeightAveraging",
]

_FAMILY = {
    "BasePredictionWriter": "checkpoint",
    "ModelCheckpoint": "checkpoint",
    "OnExceptionCheckpoint": "checkpoint",
    "BackboneFinetuning": "finetune",
    "BaseFinetuning": "finetune",
    "DeviceStatsMonitor": "monitoring",
    "GPUStatsMonitor": "monitoring",
    "Heartbeat": "monitoring",
    "LearningRateMonitor": "monitoring",
    "ModelSummary": "monitoring",
    "ProgressBar": "monitoring",
    "ProgressBarBase": "monitoring",
    "PrometheusExporter": "monitoring",
    "RichModelSummary": "monitoring",
    "RichProgressBar": "monitoring",
    "TQDMProgressBar": "monitoring",
    "ThroughputMonitor": "monitoring",
    "EMAWeightAveraging": "optim",
    "EarlyStopping": "optim",
    "GradientAccumulationScheduler": "optim",
    "BatchSizeFinder": "optim",
    "LearningRateFinder": "optim",
    "ModelPruning": "optim",
    "QuantizationAwareTraining": "optim",
    "SpikeDetection": "optim",
    "StochasticWeightAveraging": "optim",
    "Timer": "optim",
    "WeightAveraging": "optim",
}


def families() -> dict[str, list[str]]:
    """Return the callbacks of every family by the name of its distribution, whether it is installed or not."""
    found: dict[str, list[str]] = {}
    for name, family in _FAMILY.items():
        found.setdefault(f"leyden-callbacks-{family}", []).append(name)
    return found


def __getattr__(name: str) -> Any:
    family = _FAMILY.get(name)
    if family is None:
        message = f"module {__name__!r} has no attribute {name!r}.{did_you_mean(name, __all__)}"
        raise AttributeError(message, name=name, obj=None)  # without an object Python suggests nothing a second time
    distribution = f"leyden-callbacks-{family}"
    try:
        module = importlib.import_module(f"leyden_{family}")
    except ModuleNotFoundError as error:
        if error.name != f"leyden_{family}":  # the family is there; something it needs is not
            raise
        raise ImportError(
            f"{name} is in the distribution {distribution}, which is not installed here. "
            f"To install it: pip install {distribution}",
            name=error.name,
        ) from None
    try:
        value = getattr(module, name)
    except AttributeError:
        raise ImportError(
            f"The installed {distribution} has no {name}. To get one that has: pip install --upgrade {distribution}",
            name=module.__name__,
        ) from None
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return __all__


add_paths(sys.modules[__name__])
