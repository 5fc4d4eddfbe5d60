"""Tensors sent between processes: from the first to all, and from each to all with gradients flowing back."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["gather", "gather_with_gradients", "saved_buffers", "share_from_first"]

_LARGE = 1 << 20
"""Elements from which on a tensor is sent for itself."""


def share_from_first(tensors: list[Tensor]) -> None:
    """Overwrite `tensors` with those of process 0: small ones of a dtype in one message, large ones without a copy."""
    alike: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() >= _LARGE and tensor.is_contiguous():
            dist.broadcast(tensor.detach().view(-1).view(torch.uint8), 0)
        else:
            alike.setdefault(tensor.dtype, []).append(tensor.detach())
    for small in alike.values():
        sent = torch.cat([tensor.reshape(-1) for tensor in small])
        dist.broadcast(sent.view(torch.uint8), 0)
        parts = torch.split(sent, [tensor.numel() for tensor in small])
        for tensor, received in zip(small, parts, strict=True):
            tensor.copy_(received.view_as(tensor))


def saved_buffers(module: nn.Module) -> list[Tensor]:
    """Return the buffers that a checkpoint holds, each once."""
    found: dict[int, Tensor] = {}
    for one in module.modules():
        for name, buffer in one._buffers.items():
            if buffer is not None and name not in one._non_persistent_buffers_set:
                found[id(buffer)] = buffer
    return list(found.values())


def gather(tensor: Tensor, group: Any) -> Tensor:
    """Return the tensors of all processes, stacked along a new first dimension."""
    found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, tensor.contiguous(), group)
    return torch.stack(found)


class _Gather(torch.autograd.Function):
    """Every process's tensors in each; a tensor's gradient is the sum of those that the processes have of it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return gather(tensor, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient[dist.get_rank(ctx.group)], None


def gather_with_gradients(tensor: Tensor, group: Any) -> Tensor:
    """Return the same, through which each tensor gets the sum of all processes' gradients of it."""
    gathered: Tensor = _Gather.apply(tensor, group)  # type: ignore[no-untyped-call]
    return gathered
