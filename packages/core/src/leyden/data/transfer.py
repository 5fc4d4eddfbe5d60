"""A batch on its way to the device: what moves, and the hooks around it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.errors import MisconfigurationException, with_article

if TYPE_CHECKING:
    from leyden.datamodule import LightningDataModule
    from leyden.hooks.plan import HookContext
    from leyden.module import LightningModule

__all__ = ["compile_transfer", "map_tensors", "move_to_device"]

Transfer = Callable[[Any, int], Any]


def move_to_device(batch: Any, device: torch.device | str) -> Any:
    """Return `batch` with every tensor in it on `device`.

    Goes into lists, tuples, named tuples, mappings and dataclasses (frozen ones too), keeping their types, and moves
    any other object by its own ``.to(device)`` (`PackedSequence`, tokenizer outputs, graphs). What holds no tensor
    comes back as it is. Copies to a CUDA device are asynchronous when the source is in pinned memory.

    Example:
        >>> batch = {"x": torch.ones(2), "names": ["a", "b"]}
        >>> move_to_device(batch, "meta")["x"].device.type
        'meta'
    """
    return _mover(torch.device(device))(batch)


def map_tensors(batch: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Return `batch` with `fn` applied to every tensor in it; other objects that have `.to` stay as they are.

    Example:
        >>> map_tensors([torch.tensor(1.0), "name"], torch.neg)
        [tensor(-1.), 'name']
    """
    return _walk(batch, fn, _same)


def _mover(device: torch.device) -> Callable[[Any], Any]:
    non_blocking = device.type == "cuda"

    def move_tensor(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=non_blocking)

    def move_object(value: Any) -> Any:
        moved = value.to(device)
        return value if moved is None else moved  # None is the result of a method that moves in place

    return lambda batch: _walk(batch, move_tensor, move_object)


def _same(value: Any) -> Any:
    return value


def _walk(value: Any, on_tensor: Callable[[Tensor], Tensor], on_object: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor):
        return on_tensor(value)
    if isinstance(value, (str, bytes, int, float, complex, type, type(None))):
        return value
    if callable(getattr(value, "to", None)):
        # Before the containers: a PackedSequence is a named tuple and a tokenizer's output a mapping; both move better
        # by themselves.
        return on_object(value)
    if isinstance(value, (list, tuple)):
        return _like_sequence(value, [_walk(item, on_tensor, on_object) for item in value])
    if isinstance(value, Mapping):
        return _like_mapping(value, {key: _walk(item, on_tensor, on_object) for key, item in value.items()})
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return _like_dataclass(value, {name: _walk(getattr(value, name), on_tensor, on_object) for name in fields})
    return value


def _like_sequence(value: Any, items: list[Any]) -> Any:
    kind = type(value)
    if kind is list:
        return items
    if kind is tuple:
        return tuple(items)
    if isinstance(value, tuple):
        return kind._make(items) if hasattr(kind, "_make") else _rebuilt(value, items)
    other = copy.copy(value)  # a list subclass keeps its attributes
    other[:] = items
    return other


def _like_mapping(value: Any, items: dict[Any, Any]) -> Any:
    if type(value) is dict:
        return items
    if isinstance(value, MutableMapping):
        other = copy.copy(value)  # keeps a default factory, attributes, the order
        for key, item in items.items():
            other[key] = item
        return other
    return _rebuilt(value, items)


def _like_dataclass(value: Any, items: dict[str, Any]) -> Any:
    other = copy.copy(value)
    for name, item in items.items():
        # Not dataclasses.replace: it runs __post_init__ again and refuses fields with init=False.
        object.__setattr__(other, name, item)
    return other


def _rebuilt(value: Any, items: Any) -> Any:
    try:
        return type(value)(items)
    except TypeError as error:
        raise TypeError(
            f"The batch holds {with_article(type(value).__name__)}, which cannot be rebuilt from its items ({error}). "
            "Give the class a `to(device)` method that returns the moved object, or override "
            "`transfer_batch_to_device` in the LightningModule."
        ) from error


def compile_transfer(
    module: LightningModule,
    datamodule: LightningDataModule | None,
    device: torch.device,
    convert_input: Callable[[Any], Any] | None = None,
    context: HookContext | None = None,
) -> Transfer | None:
    """Return what takes ``(batch, dataloader_idx)`` to the batch a step gets, or None when a batch is passed as it is.

    In order: `convert_input` of the precision, then the hooks `on_before_batch_transfer`, `transfer_batch_to_device`
    and `on_after_batch_transfer`, each where somebody overrides it; the datamodule's instead of the module's. On the
    CPU nothing moves, so that without hooks and conversion there is nothing to call. `context` is told which hook runs.

    Raises:
        MisconfigurationException: module and datamodule both override the same hook.
    """
    before, transfer, after = (
        _named(context, hook, _overriding(module, datamodule, hook))
        for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
    )

    steps: list[Transfer] = []
    if convert_input is not None:
        steps.append(lambda batch, dataloader_idx: convert_input(batch))
    if before is not None:
        steps.append(before)
    if transfer is not None:
        steps.append(lambda batch, dataloader_idx: transfer(batch, device, dataloader_idx))
    elif device.type != "cpu":
        move = _mover(device)
        steps.append(lambda batch, dataloader_idx: move(batch))
    if after is not None:
        steps.append(after)
    return _chained(steps)


def _named(context: HookContext | None, hook: str, call: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Return `call` so that `context` knows of it while it runs: nothing can be logged there."""
    if context is None or call is None:
        return call

    def run(*args: Any) -> Any:
        outer, context.hook = context.hook, hook
        batch = call(*args)
        context.hook = outer
        return batch

    return run


def _chained(steps: list[Transfer]) -> Transfer | None:
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]
    ready = tuple(steps)

    def run(batch: Any, dataloader_idx: int) -> Any:
        for step in ready:
            batch = step(batch, dataloader_idx)
        return batch

    return run


def _overriding(
    module: LightningModule, datamodule: LightningDataModule | None, hook: str
) -> Callable[..., Any] | None:
    """The bound hook of the one that overrides it, None when nobody does."""
    from leyden.datamodule import LightningDataModule
    from leyden.module import LightningModule

    by_module = _overrides(module, LightningModule, hook)
    by_datamodule = datamodule is not None and _overrides(datamodule, LightningDataModule, hook)
    if by_module and by_datamodule:
        raise MisconfigurationException(
            f"Both {type(module).__name__} (the module) and {type(datamodule).__name__} (the datamodule) override "
            f"`{hook}`; only one can decide. Remove it from one of them."
        )
    owner = datamodule if by_datamodule else module if by_module else None
    return getattr(owner, hook) if owner is not None else None


def _overrides(instance: object, base: type, hook: str) -> bool:
    if hook in vars(instance):
        return True
    method = getattr(type(instance), hook, None)
    return method is not None and method is not getattr(base, hook, None)
