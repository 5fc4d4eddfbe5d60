"""The paths under which Lightning's documentation imports callbacks: ``callbacks.early_stopping`` and the like."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from leyden.errors import did_you_mean

__all__ = ["PATHS", "add_paths"]

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
"""What each path holds."""


class _Path(ModuleType):
    """A module of the front, with some of its names."""

    def __init__(self, front: ModuleType, path: str) -> None:
        names = PATHS[path]
        super().__init__(f"{front.__name__}.{path}", f"{' and '.join(names)}, as {front.__name__} has them.")
        self.__all__ = list(names)
        self._front = front
        self.__path__: list[str] = []  # a package, of which there are no files

    def __getattr__(self, name: str) -> Any:
        if name not in self.__all__:
            raise AttributeError(
                f"module {self.__name__!r} has no attribute {name!r}.{did_you_mean(name, self.__all__)}"
            )
        return getattr(self._front, name)

    def __dir__(self) -> list[str]:
        return self.__all__


def add_paths(front: ModuleType) -> None:
    """Let the names of `front` be imported by their paths too; nothing of a family is imported by that.

    Example:
        >>> import leyden.callbacks
        >>> from leyden.callbacks.callback import Callback
        >>> Callback is leyden.callbacks.Callback
        True
    """
    for path in PATHS:
        module = sys.modules[f"{front.__name__}.{path}"] = _Path(front, path)
        outer, _, name = path.rpartition(".")
        setattr(sys.modules[f"{front.__name__}.{outer}"] if outer else front, name, module)
