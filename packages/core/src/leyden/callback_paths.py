"""The paths under which Lightning's documentation imports callbacks: ``callbacks.early_stopping`` and the like."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from leyden.lightning_paths import ModulePath

__all__ = ["BESIDE", "PATHS", "add_paths"]

PATHS: dict[str, tuple[str, ...]] = {
    "batch_size_finder": ("BatchSizeFinder",),
    "callback": ("Callback",),
    "checkpoint": ("Checkpoint",),
    "device_stats_monitor": ("DeviceStatsMonitor",),
    "early_stopping": ("EarlyStopping",),
    "finetuning": ("BackboneFinetuning", "BaseFinetuning"),
    "gpu_stats_monitor": ("GPUStatsMonitor",),
    "gradient_accumulation_scheduler": ("GradientAccumulationScheduler",),
    "lambda_function": ("LambdaCallback",),
    "lr_finder": ("LearningRateFinder",),
    "lr_monitor": ("LearningRateMonitor",),
    "model_checkpoint": ("ModelCheckpoint",),
    "model_summary": ("ModelSummary",),
    "on_exception_checkpoint": ("OnExceptionCheckpoint",),
    "prediction_writer": ("BasePredictionWriter",),
    "progress": ("ProgressBar", "ProgressBarBase", "RichProgressBar", "TQDMProgressBar"),
    "progress.base": ("ProgressBarBase",),
    "progress.progress_bar": ("ProgressBar",),
    "progress.rich_progress": ("RichProgressBar",),
    "progress.tqdm_progress": ("TQDMProgressBar",),
    "pruning": ("ModelPruning",),
    "quantization": ("QuantizationAwareTraining",),
    "rich_model_summary": ("RichModelSummary",),
    "spike": ("SpikeDetection",),
    "stochastic_weight_avg": ("StochasticWeightAveraging",),
    "throughput_monitor": ("ThroughputMonitor",),
    "timer": ("Timer",),
    "weight_averaging": ("EMAWeightAveraging", "WeightAveraging"),
}
"""The callbacks that each path holds."""

BESIDE: dict[str, str] = {
    "early_stopping": "EarlyStoppingReason",
    "finetuning": "multiplicative",
    "progress.rich_progress": "RichProgressBarTheme",
}
"""What a path holds besides, of the module that has its first callback."""


def add_paths(front: ModuleType) -> None:
    """Let the names of `front` be imported by their paths too; nothing of a family is imported by that.

    Example:
        >>> import leyden.callbacks
        >>> from leyden.callbacks.callback import Callback
        >>> Callback is leyden.callbacks.Callback
        True
    """
    for path, names in PATHS.items():

        def find(name: str, names: tuple[str, ...] = names) -> Any:
            return getattr(front, name) if name in names else _beside(getattr(front, names[0]), name)

        beside = [BESIDE[path]] if path in BESIDE else []
        ModulePath(f"{front.__name__}.{path}", [*names, *beside], find).add()


def _beside(callback: type, name: str) -> Any:
    return getattr(sys.modules[callback.__module__], name)
