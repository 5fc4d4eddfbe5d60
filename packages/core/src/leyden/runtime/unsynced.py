"""Gradients of an open accumulation window under FSDP2: whole, of this process alone, and beside the parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

__all__ = ["set_unsynced_gradients", "unsynced_gradients"]


def unsynced_gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return what is not averaged yet, by parameter."""
    return {name: gradient for name, share in _shares_of(module) if (gradient := _unsynced(share)) is not None}


def set_unsynced_gradients(module: nn.Module, gradients: Mapping[str, Tensor], device: torch.device) -> None:
    """Let the next backward that is synchronised add its own gradients to these."""
    for name, share in _shares_of(module):
        if name in gradients:
            policy = share.mp_policy
            dtype = policy.reduce_dtype or policy.param_dtype or share.sharded_param.dtype
            share.unsharded_accumulated_grad = gradients[name].to(device, dtype)


def _shares_of(module: Any) -> Iterator[tuple[str, Any]]:
    """What FSDP2 keeps of each parameter, by name; it has no public way to these gradients."""
    kept = {}
    for one in module.modules():
        if isinstance(one, FSDPModule):
            state: Any = one._get_fsdp_state()
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            kept.update({id(share.sharded_param): share for group in groups if group for share in group.fsdp_params})
    for name, parameter in module.named_parameters():
        if id(parameter) in kept:
            yield name, kept[id(parameter)]


def _unsynced(share: Any) -> Tensor | None:
    if share.unsharded_accumulated_grad is not None:
        whole: Tensor = share.unsharded_accumulated_grad
        return whole
    parameter = getattr(share, "_unsharded_param", None)
    return None if parameter is None else parameter.grad
