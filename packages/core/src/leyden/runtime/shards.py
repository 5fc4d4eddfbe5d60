"""Tensors of which each process has a part: made whole for a file, and parted again for a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "as_in",
    "as_like",
    "empty_like_part",
    "has_shards",
    "is_shard",
    "mapped_shards",
    "own_gradients",
    "own_part",
    "parted_state",
    "sharded_parts",
    "whole",
    "with_own_part",
]


def is_shard(value: Any) -> bool:
    """Whether `value` is a part of a tensor, whose other parts are in other processes: a ``DTensor``."""
    tensors = sys.modules.get("torch.distributed.tensor")  # one exists only where its class is imported
    return tensors is not None and isinstance(value, tensors.DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """Return what this process has of a shard, in the same memory; another tensor as it is."""
    shard: Any = tensor
    return shard.detach().to_local() if is_shard(tensor) else tensor


def with_own_part(part: Tensor, like: Tensor) -> Tensor:
    """Return a shard as `like` is, of which this process has `part`; where `like` is none, `part` as it is."""
    if not is_shard(like):
        return part
    from torch.distributed.tensor import DTensor

    shard: Any = like
    return DTensor.from_local(
        part.to(shard.to_local().device), shard.device_mesh, shard.placements, run_check=False, shape=shard.shape,
        stride=shard.stride(),
    )  # fmt: skip


def sharded_parts(module: nn.Module) -> list[Any]:
    """Return the parts of a module that FSDP gathers, each for itself; ``reshard()`` gives back what one has gathered.

    Some stay gathered for what may come next, as the outermost part does after a validation.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [] if fsdp is None else [one for one in module.modules() if isinstance(one, fsdp.FSDPModule)]


def own_gradients(module: nn.Module, gradients: Mapping[str, Tensor]) -> list[str]:
    """Return the names of gradients that are whole, of this process alone, while their parameters are in shards."""
    if not gradients or not has_shards(list(module.parameters())):
        return []
    own = dict(module.named_parameters())
    return [name for name, gradient in gradients.items() if is_shard(own.get(name)) and not is_shard(gradient)]


def has_shards(value: Any) -> bool:
    """Whether there is a part of a tensor anywhere in nested dicts, lists and tuples."""
    return "torch.distributed.tensor" in sys.modules and _has_shards(value)


def _has_shards(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_shards, value.values()))
    return any(map(_has_shards, value)) if isinstance(value, list | tuple) else is_shard(value)


def mapped_shards(value: Any, change: Callable[[tuple[Any, ...], DTensor], Any], path: tuple[Any, ...] = ()) -> Any:
    """Return `value` with ``change(path, shard)`` in place of every shard; containers without any are the same."""
    if is_shard(value):
        return change(path, value)
    if isinstance(value, dict):
        items = {key: mapped_shards(item, change, (*path, key)) for key, item in value.items()}
        if all(items[key] is item for key, item in value.items()):
            return value
        copied = value.copy()  # of its own class, as a module's OrderedDict is
        copied.update(items)
        return copied
    if type(value) in (list, tuple):
        changed = [mapped_shards(item, change, (*path, index)) for index, item in enumerate(value)]
        if all(new is old for new, old in zip(changed, value, strict=True)):
            return value
        return type(value)(changed)
    return value


def whole(checkpoint: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """Return `checkpoint` with whole tensors in CPU memory in place of shards; all processes call it together.

    They are gathered one at a time, so that no device needs room for all; who does not `keep` them lets them go.
    """
    gathered: dict[int, Tensor | None] = {}

    def gather(path: tuple[Any, ...], shard: DTensor) -> Tensor | None:
        if id(shard) not in gathered:  # what is shared stays shared
            part: Any = shard.detach()
            full: Tensor = part.full_tensor()
            gathered[id(shard)] = full.cpu() if keep else None
        return gathered[id(shard)]

    made: dict[str, Any] = mapped_shards(checkpoint, gather)
    return made


def as_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as `like` is: this process's part of it where that is a shard, else as it is.

    A tensor of another shape, as an optimizer may keep for a row, is parted along the dimensions that it shares.
    """
    if not is_shard(like) or is_shard(value) or value.ndim == 0:
        return value
    from torch.distributed.tensor import distribute_tensor

    shard: Any = like
    placements = _placements(value, shard)
    on_device = value.detach().to(shard.to_local().device)
    return distribute_tensor(on_device, shard.device_mesh, placements, src_data_rank=None)


def empty_like_part(value: Tensor, like: Tensor) -> Tensor:
    """Return room for what `as_like` would make of `value`, which may be on "meta"."""
    if not is_shard(like) or value.ndim == 0:
        return torch.empty(value.shape, dtype=value.dtype)
    from torch.distributed.tensor import empty

    shard: Any = like
    return empty(*value.shape, dtype=value.dtype, device_mesh=shard.device_mesh, placements=_placements(value, shard))


def _placements(value: Tensor, shard: Any) -> list[Any]:
    from torch.distributed.tensor import Replicate, Shard

    return [
        one
        if isinstance(one, Shard) and one.dim < value.ndim and value.shape[one.dim] == shard.shape[one.dim]
        else Replicate()
        for one in shard.placements
    ]


def as_in(module: nn.Module, weights: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return weights by name, as a `state_dict` has them, in parts where `module` has them so."""
    own = dict(module.named_parameters(remove_duplicate=False))
    if not any(map(is_shard, own.values())):
        return weights
    return {name: as_like(weight, own[name]) if name in own else weight for name, weight in weights.items()}


def parted_state(optimizer: Optimizer, state: Any) -> Any:
    """Return the state of an optimizer with its tensors as the parameters are that it has: in parts, or whole."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    if not any(map(is_shard, parameters)) or not isinstance(state, dict):
        return state
    parted = {
        index: {
            name: as_like(value, parameters[index]) if isinstance(value, Tensor) else value
            for name, value in one.items()
        }
        if isinstance(index, int) and 0 <= index < len(parameters)
        else one
        for index, one in state["state"].items()
    }
    return {**state, "state": parted}
