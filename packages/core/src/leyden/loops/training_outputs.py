"""What ``training_step`` returned under automatic optimisation: the loss in it, and what hooks get of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leyden.errors import MisconfigurationException, with_article

__all__ = ["check_loss", "detached", "loss_in", "outputs_with"]


def loss_in(output: Any, module: object) -> Tensor | None:
    """Return the loss in what `module`'s step returned; None for None, which skips the batch.

    Raises:
        MisconfigurationException: there is none.
    """
    if output is None:
        return None
    if isinstance(output, Tensor):
        return output
    name = f"{type(module).__name__}.training_step"
    if not isinstance(output, Mapping):
        raise MisconfigurationException(
            f"{name} returned {output!r:.80} ({type(output).__name__}); expected the loss as a tensor, a dict with "
            "the key 'loss', or None to skip the batch."
        )
    loss = output.get("loss")
    if not isinstance(loss, Tensor):
        keys = sorted(map(str, output))
        seen = f"its 'loss' is {with_article(type(loss).__name__)}" if "loss" in output else f"its keys are {keys}"
        raise MisconfigurationException(
            f"{name} returned a dict without a loss tensor ({seen}); put the loss under the key 'loss'."
        )
    return loss


def outputs_with(loss: Tensor, output: Any) -> dict[str, Any]:
    """Return the dict that hooks get: `loss`, which is detached, and the step's other values, detached."""
    if isinstance(output, Tensor):
        return {"loss": loss}
    return {**detached(output), "loss": loss}


def detached(output: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the values of `output`, with tensors detached, also those in dicts, lists and tuples at any depth.

    A hook that keeps them keeps no graph alive. Whatever else holds tensors is passed on as it is.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> detached({"parts": [weight * 2, ("name", weight)]})
        {'parts': [tensor([2.]), ('name', tensor([1.]))]}
    """
    return {key: _detached(value) for key, value in output.items()}


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    kind = type(value)
    if kind is dict:
        return detached(value)
    if kind is list or kind is tuple:
        return kind(_detached(item) for item in value)
    if isinstance(value, tuple) and hasattr(kind, "_make"):
        return kind._make(_detached(item) for item in value)
    return value


def check_loss(loss: Tensor, module: object, batch_idx: int, *, detect_anomaly: bool) -> None:
    """Raise a `MisconfigurationException` for a loss that is not one number with a gradient, or not finite."""
    name = f"{type(module).__name__}.training_step"
    if loss.ndim and loss.numel() != 1:
        raise MisconfigurationException(
            f"{name} returned a loss of shape {tuple(loss.shape)} at batch {batch_idx}; expected one number: "
            "reduce it, e.g. loss.mean()."
        )
    if not loss.requires_grad:
        raise MisconfigurationException(
            f"{name} returned a loss without a gradient at batch {batch_idx}. Was it detached, computed under "
            "torch.no_grad(), or is every parameter frozen? Return the loss as it came from the model, or set "
            "automatic_optimization = False."
        )
    if detect_anomaly and not torch.isfinite(loss).all():
        raise MisconfigurationException(
            f"{name} returned the loss {loss.item()} at batch {batch_idx} (detect_anomaly=True); look at that batch "
            "and at what the previous steps did: learning rate, logarithms and divisions."
        )
