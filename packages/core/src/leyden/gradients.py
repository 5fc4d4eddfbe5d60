"""Norms of gradients, to be logged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["grad_norm"]


def grad_norm(module: nn.Module, norm_type: float | int | str, group_separator: str = "/") -> dict[str, Tensor]:
    """Return the norm of every parameter's gradient, and of all of them together.

    Args:
        module: its parameters without a gradient are left out.
        norm_type: p of the p-norm, greater than 0; "inf" is the greatest absolute value.
        group_separator: stands between the group and the name of the parameter in a key.

    Returns:
        0-d tensors by the keys ``grad_{p}_norm/{name}`` and ``grad_{p}_norm_total``; empty without gradients.

    Raises:
        ValueError: `norm_type` is not greater than 0.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> layer.weight.grad = torch.tensor([[3.0, 4.0]])
        >>> grad_norm(layer, 2)
        {'grad_2.0_norm/weight': tensor(5.), 'grad_2.0_norm_total': tensor(5.)}
    """
    p = float(norm_type)
    if not p > 0:
        raise ValueError(f"grad_norm: norm_type is {norm_type!r}; expected a number greater than 0, or 'inf'.")
    norms = {
        f"grad_{p}_norm{group_separator}{name}": _whole(torch.linalg.vector_norm(parameter.grad.detach(), p))
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    if norms:
        norms[f"grad_{p}_norm_total"] = torch.linalg.vector_norm(torch.stack(list(norms.values())), p)
    return norms


def _whole(norm: Tensor) -> Tensor:
    """Of a gradient in shards the processes have a part of the norm each."""
    full = getattr(norm, "full_tensor", None)
    return norm if full is None else full()
