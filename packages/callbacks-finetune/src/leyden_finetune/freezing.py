"""Freezing modules and setting them free again, BatchNorm included."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import Parameter, is_lazy

__all__ = [
    "Modules",
    "flatten",
    "freeze_norm",
    "is_frozen_norm",
    "is_norm",
    "own_parameters",
    "release_norm",
    "set_trainable",
]

Modules: TypeAlias = nn.Module | Iterable["Modules"]
"""A module, or modules in lists within lists."""


def flatten(modules: Modules) -> list[nn.Module]:
    """Return each module that holds parameters or has no children, once, in the order of ``modules()``."""
    found: dict[int, nn.Module] = {}
    for module in _walk(modules):
        has_own = any(True for _ in module.parameters(recurse=False))
        if has_own or not any(True for _ in module.children()):
            found.setdefault(id(module), module)
    return list(found.values())


def _walk(modules: Modules) -> Iterator[nn.Module]:
    if isinstance(modules, nn.Module):
        yield from modules.modules()
    elif isinstance(modules, str) or not hasattr(modules, "__iter__"):
        raise TypeError(f"expected a torch.nn.Module or a list of them, got {modules!r} ({type(modules).__name__})")
    else:
        for one in modules:
            yield from _walk(one)


def own_parameters(module: nn.Module) -> Iterator[Parameter]:
    """Yield the parameters of the module itself, without those of its children."""
    return module.parameters(recurse=False)


def set_trainable(parameters: Iterable[Parameter], trainable: bool) -> None:
    """Switch gradients on or off; integer parameters of quantised layers have none."""
    for parameter in parameters:
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad = trainable  # requires_grad_() is refused to what a lazy layer has yet to shape


def is_norm(module: nn.Module) -> bool:
    """Whether the module normalises by statistics that it collects: any BatchNorm."""
    return isinstance(module, _BatchNorm)


@dataclass
class _Held:
    """What a frozen BatchNorm goes back to."""

    tracked_statistics: bool
    mode: bool


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether `freeze_norm` holds the module."""
    return isinstance(vars(module).get("_held"), _Held)


def freeze_norm(module: nn.Module) -> None:
    """Hold a BatchNorm in evaluation mode: it normalises by its running statistics and leaves them as they are.

    The Trainer, and users, switch whole modules by ``.train()``. A frozen BatchNorm only takes note of that.
    """
    if is_frozen_norm(module):
        return
    held: Any = module
    held._held = _Held(bool(module.track_running_stats), module.training)
    if not any(
        is_lazy(buffer) for buffer in module.buffers()
    ):  # a lazy one makes its statistics only if it tracks them
        held.track_running_stats = False
    held.training = False
    held.train = partial(_take_note, module)  # a partial of a function of this module can be pickled and copied


def release_norm(module: nn.Module) -> None:
    """Undo `freeze_norm`: the BatchNorm takes the mode that the modules around it have."""
    if not is_frozen_norm(module):
        return
    released: Any = module
    held: _Held = released._held
    released.track_running_stats = held.tracked_statistics
    del released._held, released.train
    module.train(held.mode)


def _take_note(module: Any, mode: bool = True) -> nn.Module:
    module._held.mode = mode
    released: nn.Module = module
    return released
