"""Running a module before its training without the training noticing."""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from leyden.seed import isolate_rng

__all__ = ["is_undecided", "leave_untouched"]

_COPIED = (list, dict, set, OrderedDict, deque)


def is_undecided(module: nn.Module) -> bool:
    """Whether the first input is to decide sizes of it: a run of an example would."""
    return any(
        isinstance(part, LazyModuleMixin) and part.has_uninitialized_params() for part in module.modules()
    ) or any(is_lazy(parameter) for parameter in module.parameters())


@contextlib.contextmanager
def leave_untouched(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes, attributes, buffers and random state as before.

    A forward may count its calls, cache what it computes or move a running average: inside, every part has copies of
    its buffers, tensors and collections, and gets its own back. Parameters are not copied, which would take as much
    memory as the model.

    Example:
        >>> norm = nn.BatchNorm1d(2, track_running_stats=True)
        >>> with leave_untouched(norm):
        ...     norm.running_mean.add_(1)
        ...     norm.training
        tensor([1., 1.])
        False
        >>> norm.running_mean, norm.training
        (tensor([0., 0.]), True)
    """
    parts = list(module.modules())
    modes = [(part, part.training) for part in parts]
    attributes = [(part, dict(vars(part))) for part in parts]
    copies: dict[int, Any] = {}  # by id, so that what parts share they share inside too
    try:
        for part in parts:
            for name, value in list(vars(part).items()):
                if name == "_buffers":
                    vars(part)[name] = type(value)((key, _copy(one, copies)) for key, one in value.items())
                else:
                    vars(part)[name] = _copy(value, copies)
            part.training = False  # not by `eval()`, which modules may answer in their own way
        with torch.no_grad(), isolate_rng():
            yield
    finally:
        for part, before in attributes:
            vars(part).clear()
            vars(part).update(before)
        for part, training in modes:  # one of TorchScript has it elsewhere
            part.training = training


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    if id(value) not in copies:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            copies[id(value)] = value.detach().clone()
        else:
            copies[id(value)] = value.copy() if type(value) in _COPIED else value
    return copies[id(value)]
