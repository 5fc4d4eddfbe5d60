"""Learning-rate schedulers and parameter groups that are added after the scheduler was made.

torch's schedulers keep one entry per group from the moment they are made, in lists of their own and in keys of the
groups, and fail or go wrong when a group comes later. A new group follows the schedule of the first one, in proportion:
what is half of the first group's rate when it is added stays half of it. What a scheduler does to the first group's
momentum is done to the new one's; the rate that `SWALR` anneals to is that of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

__all__ = ["adopt_new_groups", "set_learning_rate"]

_RATE_KEYS = ("initial_lr", "max_lr", "min_lr")
_OTHER_KEYS = ("base_momentum", "max_momentum", "swa_lr")
_CYCLED = ("momentum", "betas")
_RATE_LISTS = ("base_lrs", "max_lrs")
_OTHER_LISTS = ("min_lrs", "base_momentums", "max_momentums", "lr_lambdas")


def adopt_new_groups(schedulers: Sequence[Any], optimizer: Optimizer) -> None:
    """Let the schedulers that drive `optimizer` drive also the groups that were added since they were made."""
    first, *others = optimizer.param_groups
    for group in others:
        _add_keys(group, first)
    for scheduler in _driving(schedulers, optimizer):
        for group in optimizer.param_groups[_known_groups(scheduler, optimizer) :]:
            _extend_lists(scheduler, _proportion(group, first), float(group["lr"]))


def set_learning_rate(schedulers: Sequence[Any], optimizer: Optimizer, index: int, learning_rate: float) -> None:
    """Set the rate of one group, and let the schedulers go on from there instead of undoing it at their next step."""
    group = optimizer.param_groups[index]
    before = float(group["lr"])
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(learning_rate)
    else:
        group["lr"] = learning_rate
    for scheduler in _driving(schedulers, optimizer):
        if isinstance(last := getattr(scheduler, "_last_lr", None), list):
            last[index] = learning_rate
    if before == 0:
        return
    factor = learning_rate / before
    for key in _RATE_KEYS:
        if key in group:
            group[key] = group[key] * factor
    for scheduler in _driving(schedulers, optimizer):
        for name in _RATE_LISTS:
            if values := getattr(scheduler, name, None):
                values[index] = values[index] * factor


def _driving(schedulers: Sequence[Any], optimizer: Optimizer) -> Iterator[Any]:
    for scheduler in schedulers:
        yield from _driving(getattr(scheduler, "_schedulers", ()), optimizer)  # SequentialLR, ChainedScheduler
        if getattr(scheduler, "optimizer", None) is optimizer:
            yield scheduler


def _known_groups(scheduler: Any, optimizer: Optimizer) -> int:
    for name in ("base_lrs", "min_lrs", "_last_lr"):
        if isinstance(values := getattr(scheduler, name, None), list):
            return len(values)
    return len(optimizer.param_groups)  # it keeps nothing per group


def _proportion(group: dict[str, Any], first: dict[str, Any]) -> float:
    rate, own = float(first["lr"]), float(group["lr"])
    if rate:
        return own / rate
    base = float(first.get("initial_lr", 0.0))  # of a warm-up that begins at 0
    if not base:
        return 1.0
    return float(group.get("initial_lr", own or base)) / base


def _add_keys(group: dict[str, Any], first: dict[str, Any]) -> None:
    proportion = _proportion(group, first)
    if "max_momentum" in first and "max_momentum" not in group:
        # It has the optimizer's default; the scheduler has moved that of the first, and may not move it on for long.
        group.update({key: first[key] for key in _CYCLED if key in first})
    for key in _RATE_KEYS:
        if key in first and key not in group:
            group[key] = first[key] * proportion
    for key in _OTHER_KEYS:
        if key in first and key not in group:
            group[key] = first[key]


def _extend_lists(scheduler: Any, proportion: float, learning_rate: float) -> None:
    for name in _RATE_LISTS:
        if isinstance(values := getattr(scheduler, name, None), list):
            values.append(values[0] * proportion)
    for name in _OTHER_LISTS:
        if isinstance(values := getattr(scheduler, name, None), list):
            values.append(values[0])
    if isinstance(last := getattr(scheduler, "_last_lr", None), list):
        last.append(learning_rate)
