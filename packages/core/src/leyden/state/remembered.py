"""What objects hold, remembered so that it can be put back: a trial leaves them as they were, byte for byte."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.errors import MisconfigurationException
from leyden.runtime.shards import own_part
from leyden.state.rng import collect_rng, restore_rng

__all__ = ["Remembered"]

_KNOWN = (nn.Module, Optimizer, LRScheduler, torch.amp.GradScaler, LightningDataModule)
_OF_DATA = (Dataset, Sampler, DataLoader)
_LEFT_ALONE = (Callback, ModuleType, type, str, bytes, int, float, complex, type(None))
_MANY = 1000
"""Data may hold lists of all samples; longer ones are taken to be these, and not looked through."""


class Remembered:
    """Remembers `objects` with what they hold, and the random numbers; `put_back` makes all of it as it was.

    Tensors (with gradients), NumPy arrays, containers and random number generators are put back in place, so that who
    holds one goes on holding it; attributes that came up since are gone. Looked into are modules, optimizers,
    schedulers, gradient scalers, datamodules, and objects of classes from the packages that `objects` are from. Of
    datasets, samplers and loaders only numbers and generators are remembered: tensors in there are data. Others are
    left alone. Copies of tensors are kept in the memory of the CPU.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> layer.seen = [1]
        >>> before = layer.weight.detach().clone()
        >>> remembered = Remembered(layer)
        >>> layer.seen.append(2)
        >>> layer.weight.data.zero_().sum().item()
        0.0
        >>> remembered.put_back()
        >>> layer.seen, torch.equal(layer.weight, before)
        ([1], True)
    """

    def __init__(self, *objects: object) -> None:
        self._undo: list[Callable[[], object]] = []
        self._known: dict[int, object] = {}
        self._packages: set[str] = set()
        self._rng = collect_rng()
        for one in objects:
            self._count_as_own(one)
        for one in objects:
            self._look_into(one)

    def add_data(self, value: Any) -> None:
        """Remember numbers and generators of a dataset, a sampler, a loader or a collection of these, too."""
        self._count_as_own(value)
        self._look_at_data(value)

    def put_back(self) -> None:
        """Make everything as it was. Ctrl-C waits until it is."""
        left: list[Callable[[], object]] = [partial(restore_rng, self._rng), *self._undo]
        interrupt: KeyboardInterrupt | None = None
        with torch.no_grad():
            while left:
                try:
                    while left:
                        left[-1]()
                        left.pop()
                except KeyboardInterrupt as error:
                    interrupt = error
        if interrupt is not None:
            raise interrupt

    def _count_as_own(self, value: object) -> None:
        package = _package(value)
        if package not in sys.stdlib_module_names and package not in ("leyden", "torch", "numpy"):
            self._packages.add(package)

    def _look_into(self, value: Any) -> None:
        if isinstance(value, _OF_DATA):
            self._look_at_data(value)
        elif not isinstance(value, _LEFT_ALONE) and id(value) not in self._known:
            self._known[id(value)] = value
            if isinstance(value, Tensor):
                self._keep_tensor(value)
            elif not (self._keep_generator(value) or self._keep_array(value)):
                self._keep_contents(value, self._look_into)

    def _look_at_data(self, value: Any) -> None:
        if isinstance(value, (*_LEFT_ALONE, Tensor)) or id(value) in self._known:
            return
        self._known[id(value)] = value
        many = isinstance(value, list | tuple | dict | set | deque) and len(value) > _MANY
        if not self._keep_generator(value) and not many:
            self._keep_contents(value, self._look_at_data)

    def _keep_contents(self, value: Any, look: Callable[[Any], None]) -> None:
        if isinstance(value, dict):
            self._undo.append(partial(_refill_dict, value, list(value.items())))
            members: Any = value.values()
        elif isinstance(value, list | deque):
            self._undo.append(partial(_refill_list, value, list(value)))
            members = value
        elif isinstance(value, set):
            self._undo.append(partial(_refill_set, value, set(value)))
            members = ()
        elif isinstance(value, tuple):
            members = value
        elif hasattr(value, "__dict__") and (
            isinstance(value, (*_KNOWN, *_OF_DATA)) or _package(value) in self._packages
        ):
            attributes = vars(value)
            self._undo.append(partial(_refill_dict, attributes, list(attributes.items())))
            members = [one for name, one in attributes.items() if name not in ("_trainer", "trainer")]
        else:
            members = ()
        for member in list(members):
            look(member)

    def _keep_tensor(self, tensor: Tensor) -> None:
        if is_lazy(tensor):
            raise MisconfigurationException(
                "a module has a parameter that takes its shape from the first batch (a Lazy… layer), so that what a "
                "trial does to it cannot be put back. Run a batch through it before, such as in configure_model."
            )
        if tensor.is_meta or tensor.layout is not torch.strided:
            return
        saved = own_part(tensor).detach().to("cpu", copy=True)
        grad = tensor.grad if tensor.is_leaf else None
        if grad is not None:
            self._look_into(grad)
        self._undo.append(partial(_put_back_tensor, tensor, saved, tensor.requires_grad, grad))

    def _keep_generator(self, value: Any) -> bool:
        """Remember a generator of random numbers; return whether it is one."""
        numpy: Any = sys.modules.get("numpy")
        if isinstance(value, torch.Generator):
            self._undo.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._undo.append(partial(value.setstate, value.getstate()))
        elif numpy is not None and isinstance(value, numpy.random.Generator):
            self._undo.append(partial(setattr, value.bit_generator, "state", value.bit_generator.state))
        elif numpy is not None and isinstance(value, numpy.random.RandomState):
            self._undo.append(partial(value.set_state, value.get_state()))
        else:
            return False
        return True

    def _keep_array(self, value: Any) -> bool:
        """Remember a NumPy array; return whether it is one."""
        numpy: Any = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, numpy.ndarray):
            return False
        if value.flags.writeable:
            self._undo.append(partial(value.__setitem__, ..., value.copy()))
        return True


def _package(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _refill_dict(value: dict[Any, Any], items: list[tuple[Any, Any]]) -> None:
    before = dict(items)
    for key in [key for key in value if key not in before]:
        del value[key]
    for key, one in items:
        if key not in value or value[key] is not one:
            value[key] = one
    if list(value) != list(before):  # parameters are stepped in the order in which a module has them
        value.clear()
        value.update(items)


def _refill_list(value: Any, items: list[Any]) -> None:
    if len(value) != len(items) or any(a is not b for a, b in zip(value, items, strict=True)):
        value.clear()
        value.extend(items)


def _refill_set(value: set[Any], items: set[Any]) -> None:
    if value != items:
        value.clear()
        value.update(items)


def _put_back_tensor(tensor: Tensor, saved: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    part = own_part(tensor)
    if part.shape != saved.shape or tensor.dtype != saved.dtype:
        tensor.data = saved.to(tensor.device)
    elif not _same_bytes(part, saved):
        part.copy_(saved)
    if tensor.is_leaf:
        if tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        tensor.grad = grad


def _same_bytes(tensor: Tensor, saved: Tensor) -> bool:
    """Whether nothing is to be put back; an expanded tensor, such as an input, could not even be written to."""
    now = tensor.detach().to("cpu")
    if now.is_quantized:
        return torch.equal(now, saved)
    return torch.equal(_bytes(now), _bytes(saved))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
