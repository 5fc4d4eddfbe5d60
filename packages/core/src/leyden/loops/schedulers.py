"""Stepping learning-rate schedulers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from leyden.errors import MisconfigurationException, did_you_mean
from leyden.optimizers import LRSchedulerConfig
from leyden.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["step_schedulers"]


def step_schedulers(trainer: Trainer, interval: str, count: int, *, plateau: bool) -> None:
    """Step the schedulers of an interval ("step" or "epoch") whose frequency divides `count`, the intervals done.

    Schedulers on a plateau wait for the validation that may follow a step or epoch, so they are stepped by a call of
    their own.
    """
    for config in trainer.lr_scheduler_configs:
        if config.interval != interval or config.reduce_on_plateau != plateau or count % config.frequency:
            continue
        metric = None
        if config.monitor is not None and config.reduce_on_plateau:
            metric = trainer.callback_metrics.get(config.monitor)
            if trainer.world_size > 1:
                metric = _of_first(trainer, metric)
            if metric is None:
                _report_missing(trainer, config)
                continue
        trainer.journal.hook = "lr_scheduler_step"
        trainer.lightning_module.lr_scheduler_step(config.scheduler, metric)


def _of_first(trainer: Trainer, metric: Tensor | None) -> Tensor | None:
    """Return process 0's metric: of values that differ, learning rates and weights would come to differ, too."""
    value = trainer.strategy.broadcast(None if metric is None else float(metric))
    dtype = torch.float32 if metric is None else metric.dtype
    return None if value is None else torch.tensor(value, dtype=dtype, device=trainer.strategy.root_device)


def _report_missing(trainer: Trainer, config: LRSchedulerConfig) -> None:
    assert config.monitor is not None
    names = sorted(trainer.callback_metrics)
    message = (
        f"the scheduler {type(config.scheduler).__name__} monitors {config.monitor!r} each {config.interval}, which "
        "has not been logged. Logged so "
        f"far: {', '.join(names) or 'nothing'}.{did_you_mean(config.monitor, names)} Log it with "
        f"self.log({config.monitor!r}, ...) before, or "
        "set strict=False in the scheduler's dict to skip such steps."
    )
    if config.strict:
        raise MisconfigurationException(f"{type(trainer.lightning_module).__name__}.configure_optimizers: {message}")
    rank_zero_warn(message)
