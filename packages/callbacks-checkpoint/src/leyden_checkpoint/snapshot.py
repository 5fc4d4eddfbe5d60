"""A copy of a checkpoint in the memory of the CPU, which training cannot change any more."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from leyden.state.shares import Shares

__all__ = ["snapshot"]


def snapshot(content: Any) -> Any:
    """Return a copy of `content` that shares nothing with it, with its tensors in CPU memory.

    Tensors that share memory share it in the copy too, so that a file of it is as large as one of `content`. Each
    memory is copied once, whole, as a file would hold it.

    Example:
        >>> weight = torch.zeros(2)
        >>> copied = snapshot({"weight": weight, "tied": weight})
        >>> _ = weight.fill_(1)
        >>> copied["weight"].tolist(), copied["tied"] is copied["weight"]
        ([0.0, 0.0], True)
    """
    if isinstance(content, Shares):
        shares = {name: tensor.detach().to("cpu", copy=True) for name, tensor in content.tensors.items()}
        return replace(content, plain=snapshot(content.plain), tensors=shares)
    copies: dict[int, Any] = {}
    memories: dict[tuple[torch.device, int, int], torch.UntypedStorage] = {}
    for tensor in _tensors_in(content):
        if id(tensor) not in copies:
            copies[id(tensor)] = _copy(tensor, memories)
    # Everything that is no tensor is small; deepcopy takes what is in `copies` for the copy of it.
    return copy.deepcopy(content, copies)


def _tensors_in(content: Any) -> list[Tensor]:
    """The tensors in nested dicts, lists, tuples and sets; what other objects hold is left to deepcopy."""
    found: list[Tensor] = []
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


def _copy(tensor: Tensor, memories: dict[tuple[torch.device, int, int], torch.UntypedStorage]) -> Tensor:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized
    if not plain or tensor.is_meta or tensor.is_conj() or tensor.is_neg():
        return tensor.detach().to("cpu", copy=True) if not tensor.is_meta else tensor
    memory = tensor.untyped_storage()
    key = (tensor.device, memory.data_ptr(), memory.nbytes())
    if key not in memories:
        memories[key] = torch.empty(memory.nbytes(), dtype=torch.uint8).untyped_storage().copy_(memory)
    copied = torch.empty(0, dtype=tensor.dtype)
    copied.set_(memories[key], tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, tensor.requires_grad)
    return copied.requires_grad_() if tensor.requires_grad and tensor.is_leaf else copied
