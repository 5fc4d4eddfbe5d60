"""The learning rates of a trainer's optimizers, together with what schedulers have noted of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from leyden import Trainer

__all__ = ["give_rate", "rates_of", "set_rate"]


def rates_of(trainer: Trainer) -> list[tuple[float, float]]:
    """Return each group's rate, and the one that its schedule is of: every warm-up may begin at 0."""
    return [(float(group["lr"]), _initial(group)) for group in _groups(trainer)]


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Let every group have `rate`; one that is a tensor is written to."""
    for group in optimizer.param_groups:
        _write(group, "lr", rate)


def give_rate(trainer: Trainer, rate: float, *, is_underway: bool) -> None:
    """Let the training have `rate`, and its schedulers go on from there.

    Before it begins, schedules begin at `rate` in place of the rate that they were given, so that a warm-up warms up.
    When it `is_underway`, each group has `rate` now, and schedules go on from there.
    """
    for group in _groups(trainer):
        factor = float(group["lr"]) / _initial(group) if _initial(group) else 1.0
        _write(group, "lr", rate if is_underway else rate * factor)
        if "initial_lr" in group:
            _write(group, "initial_lr", rate / factor if is_underway and factor else rate)
    for config in trainer.lr_scheduler_configs:
        for scheduler in _with_inner(config.scheduler):
            if hasattr(scheduler, "base_lrs"):
                scheduler.base_lrs = [_initial(group) for group in scheduler.optimizer.param_groups]


def _groups(trainer: Trainer) -> Iterator[dict[str, Any]]:
    for optimizer in trainer.optimizers:
        yield from optimizer.param_groups


def _initial(group: dict[str, Any]) -> float:
    return float(group.get("initial_lr", group["lr"]))


def _write(group: dict[str, Any], name: str, rate: float) -> None:
    if isinstance(group[name], Tensor):
        group[name].fill_(rate)
    else:
        group[name] = rate


def _with_inner(scheduler: Any) -> Iterator[Any]:
    """Yield a scheduler and those that it is made of."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _with_inner(inner)
