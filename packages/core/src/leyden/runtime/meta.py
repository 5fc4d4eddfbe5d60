"""Layers made on the meta device, which have no memory: given some, and filled as their constructors would have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from leyden.errors import MisconfigurationException

__all__ = ["fill_meta", "keeping_ties"]


def fill_meta(module: nn.Module, device: torch.device) -> None:
    """Give what is on the meta device memory on `device`, and fill it by each layer's ``reset_parameters``.

    Raises:
        MisconfigurationException: a layer on the meta device has no such method.

    Example:
        >>> with torch.device("meta"):
        ...     layer = nn.Linear(1, 2)
        >>> fill_meta(layer, torch.device("cpu"))
        >>> layer.weight.device.type, bool(layer.weight.abs().max() <= 1)
        ('cpu', True)
    """
    on_meta = [one for one in module.modules() if any(tensor.is_meta for tensor in _own(one))]
    _make_room(on_meta, device)
    for one in reversed(on_meta):  # layers before those that hold them, as constructors do
        reset = getattr(one, "reset_parameters", None) or getattr(one, "_reset_parameters", None)
        if reset is None:
            raise MisconfigurationException(
                f"{type(one).__name__} was made on the meta device, and has no method reset_parameters() that fills "
                "its parameters and buffers. Define one, or make it outside of torch.device('meta')."
            )
        with torch.no_grad():
            reset()


@contextlib.contextmanager
def keeping_ties(module: nn.Module) -> Iterator[None]:
    """Let layers on the meta device that share a parameter share what takes its place within the context."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.is_meta:
                places.setdefault(parameter, []).append((layer, name))
    yield
    for (first, its_name), *others in places.values():
        for layer, name in others:
            layer._parameters[name] = first._parameters[its_name]


def _make_room(on_meta: Sequence[nn.Module], device: torch.device) -> None:
    """Give layers memory for their tensors; those that share one go on to, which ``Module.to_empty`` would not let."""
    rooms: dict[Tensor, Tensor] = {}
    for layer in on_meta:
        for registry in (layer._parameters, layer._buffers):
            for name, tensor in registry.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if tensor not in rooms:
                    room = torch.empty_like(tensor, device=device)
                    rooms[tensor] = nn.Parameter(room, tensor.requires_grad) if name in layer._parameters else room
                registry[name] = rooms[tensor]  # type: ignore[assignment]


def _own(layer: nn.Module) -> Iterator[Tensor]:
    yield from layer.parameters(recurse=False)
    yield from layer.buffers(recurse=False)
