"""What the training hands over to Prometheus now and then: no other thread may look at tensors and optimizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.logging.metrics import to_floats
from leyden_monitoring.device_sources import gpus_of
from leyden_monitoring.prometheus_metrics import RunMetrics

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["report"]


def report(trainer: Trainer, run: RunMetrics, *, waits: bool) -> None:
    """Publish metrics, learning rates and the allocator's numbers in `run`; called by the training thread.

    Without `waits` values on a device stay as they were published before, and nothing is waited for.
    """
    rates = _learning_rates(trainer)
    run.learning_rates = {**run.learning_rates, **to_floats(rates if waits else _at_hand(rates))}
    metrics = trainer.callback_metrics
    run.metrics = {**run.metrics, **to_floats(metrics if waits else _at_hand(metrics))}
    if gpus := gpus_of(trainer):
        import torch

        run.allocator = {gpu: torch.cuda.memory_stats_as_nested_dict(gpu) for gpu in gpus}


def _at_hand(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return those that are numbers, or tensors in the memory of the CPU: reading them waits for nothing."""
    return {key: value for key, value in values.items() if not isinstance(value, Tensor) or value.is_cpu}


def _learning_rates(trainer: Trainer) -> dict[tuple[str, str], float | Tensor]:
    """Return them by optimizer ("Adam", the second of a class "Adam-1") and by the group's name or number."""
    counts: Counter[str] = Counter()
    rates: dict[tuple[str, str], float | Tensor] = {}
    for optimizer in trainer.optimizers:
        kind = type(optimizer).__name__
        name = f"{kind}-{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
        for number, group in enumerate(optimizer.param_groups):
            rates[name, str(group.get("name", number))] = group["lr"]
    return rates
