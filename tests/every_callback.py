"""One of each callback that comes with Leyden, for what is asked of all of them, and the search for those left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from leyden import Callback, callbacks
from leyden.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EMAWeightAveraging,
    LambdaCallback,
    LearningRateFinder,
    LearningRateMonitor,
    ModelPruning,
    ModelSummary,
    ProgressBar,
    ProgressBarBase,
    PrometheusExporter,
    QuantizationAwareTraining,
    RichModelSummary,
    RichProgressBar,
    SpikeDetection,
    Timer,
    TQDMProgressBar,
    WeightAveraging,
)

__all__ = ["MAKE", "left_out"]


class Thaw(BaseFinetuning):
    """Sets the backbone free layer by layer."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if 0 < epoch <= len(pl_module.backbone):
            self.unfreeze_and_add_param_group(pl_module.backbone[epoch - 1], optimizer)


class Counting(ProgressBarBase):
    """A bar of the user's own."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
        return {**super().get_metrics(trainer, pl_module), "batch": self.train_batch_idx}


def log_twice(trainer: Any, module: Any, *_: Any) -> None:
    module.log("twice", 2.0)


MAKE: dict[str, Callable[[], Callback]] = {
    "BackboneFinetuning": lambda: BackboneFinetuning(1, lambda epoch: 1.5),
    "BaseFinetuning": Thaw,
    "BatchSizeFinder": lambda: BatchSizeFinder(max_val=4),
    "DeviceStatsMonitor": lambda: DeviceStatsMonitor(cpu_stats=True),
    "EMAWeightAveraging": lambda: EMAWeightAveraging(decay=0.7, update_starting_at_step=3),
    "LambdaCallback": lambda: LambdaCallback(on_train_batch_end=log_twice),
    "LearningRateFinder": lambda: LearningRateFinder(min_lr=1e-4, num_training_steps=20),
    "LearningRateMonitor": lambda: LearningRateMonitor(log_momentum=True),
    "ModelPruning": lambda: ModelPruning("random_unstructured", amount=0.2),
    "ModelSummary": ModelSummary,
    "ProgressBar": lambda: ProgressBar(refresh_rate=2),
    "ProgressBarBase": Counting,
    "PrometheusExporter": lambda: PrometheusExporter(port=0),
    "QuantizationAwareTraining": lambda: QuantizationAwareTraining(modules_to_fuse=[["backbone.0", "backbone.1"]]),
    "RichModelSummary": RichModelSummary,
    "RichProgressBar": lambda: RichProgressBar(leave=True),
    "SpikeDetection": lambda: SpikeDetection(window=4, rtol=99.0),
    "TQDMProgressBar": TQDMProgressBar,
    "Timer": lambda: Timer("00:01:00:00"),
    "WeightAveraging": lambda: WeightAveraging(use_buffers=False),
}
"""How to make one, by the names of the front: those whose arguments are the same wherever they are tried."""


def left_out(names: Iterable[str]) -> list[str]:
    """Return the callbacks of the front that are not among `names`."""
    bases = {"Callback", "Checkpoint"}  # which do nothing
    return sorted({*callbacks.__all__} - {*names} - bases)
