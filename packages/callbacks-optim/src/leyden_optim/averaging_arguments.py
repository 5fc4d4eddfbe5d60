"""What may be given to callbacks that average weights."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from leyden.arguments import takes
from leyden.errors import MisconfigurationException

__all__ = ["AVERAGE", "averaging_problems", "check_device", "is_device"]

AVERAGE = "a function of three arguments (the averaged weights, the current ones, the number of updates so far) or None"
"""What `avg_fn` is; to `multi_avg_fn` the weights are lists of tensors."""

_OF_EMA = ("decay", "update_every_n_steps", "update_starting_at_step", "update_starting_at_epoch")


def is_device(device: Any) -> bool:
    """Whether `device` names a device of torch, there or not, or is None."""
    try:
        return device is None or bool(torch.device(device))
    except (RuntimeError, TypeError):
        return False


def check_device(owner: str, device: Any) -> None:
    """Raise where torch cannot use `device` on this machine: the first update may be hours away."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:  # the former where torch was built without
        raise MisconfigurationException(
            f"{owner}(device={device!r}): torch cannot keep the average there ({error}). Give a device of this "
            "machine, or None, which is beside the weights."
        ) from error


def averaging_problems(device: Any, use_buffers: Any, averaging: dict[str, Any]) -> list[str]:
    """Say what cannot work among the arguments of `WeightAveraging`; `averaging` is for torch's `AveragedModel`."""
    problems = []
    if not is_device(device):
        problems.append(f"device={device!r}: expected a device of torch, such as 'cpu' or 'cuda:1', or None")
    if not isinstance(use_buffers, bool):
        problems.append(f"use_buffers={use_buffers!r}: expected True or False")
    known = [name for name in inspect.signature(AveragedModel).parameters if name.endswith("avg_fn")]
    for name, value in averaging.items():
        if name in _OF_EMA:
            problems.append(f"{name}={value!r}: that is an argument of EMAWeightAveraging; use this one")
        elif name not in known:
            problems.append(f"{name}={value!r}: there is no such argument; AveragedModel has {', '.join(known)}")
        elif value is not None and not takes(value, 3):
            problems.append(f"{name}={value!r}: expected {AVERAGE}")
    if all(averaging.get(name) is not None for name in ("avg_fn", "multi_avg_fn")):
        problems.append("avg_fn and multi_avg_fn: give one of the two")
    return problems
