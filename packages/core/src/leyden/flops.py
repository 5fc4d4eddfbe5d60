"""Counting the floating point operations of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["measure_flops"]


def measure_flops(
    model: nn.Module, forward_fn: Callable[[], Any], loss_fn: Callable[[Any], Tensor] | None = None
) -> int:
    """Return the floating point operations of a forward, and of a backward when there is a loss.

    Counted by ``torch.utils.flop_counter``: matrix products, convolutions and attention, a multiply-add as two. On the
    "meta" device nothing is computed.

    Args:
        model: whose operations they are.
        forward_fn: runs `model` on a batch and returns its output.
        loss_fn: computes the loss of that output, from which backward is then counted too.

    Example:
        >>> import torch
        >>> model = nn.Linear(4, 2, device="meta")
        >>> x = torch.empty(8, 4, device="meta")
        >>> measure_flops(model, lambda: model(x))
        128
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        output = forward_fn()
        if loss_fn is not None:
            loss_fn(output).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())
