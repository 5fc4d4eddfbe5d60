"""Numeric precision: what the weights, the inputs and the arithmetic of a step are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from leyden.data.transfer import map_tensors
from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["Precision", "choose_precision"]

_ALIASES = {
    "64": "64-true", "double": "64-true",
    "32": "32-true", "full": "32-true",
    "16": "16-mixed", "bf16": "bf16-mixed", "half": "16-true",
}  # fmt: skip
_OTHERS_NAMES = {
    "fp64": "64-true", "float64": "64-true", "fp32": "32-true", "float32": "32-true", "float": "32-true",
    "fp16": "16-mixed", "float16": "16-mixed", "amp": "16-mixed", "mixed": "16-mixed", "bfloat16": "bf16-mixed",
}  # fmt: skip
"""What other libraries call them: as text, "fp16" is nearer to "bf16" than to what is meant."""
_NAMES = ("64-true", "32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true")


class Precision:
    """One precision, as the loops use it: `convert_module` once, `forward_context` around each step where there is one.

    Attributes:
        name: "64-true", "32-true", "16-mixed", "bf16-mixed", "16-true" or "bf16-true".
        dtype: dtype of weights and inputs under a "-true" precision other than 32, else None.
        forward_context: makes the context a step's forward runs in, or None where it needs none.
        scaler: the gradient scaler of "16-mixed", else None.
    """

    def __init__(self, name: str, device_type: str) -> None:
        self.name = name
        self.dtype = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}.get(name)
        self.forward_context: Callable[[], AbstractContextManager[Any]] | None = None
        self.scaler: torch.amp.GradScaler | None = None
        if name.endswith("-mixed"):
            half = torch.float16 if name == "16-mixed" else torch.bfloat16
            # A context for each step: its cache of casted weights must not outlive it, since weights change.
            self.forward_context = lambda: torch.autocast(device_type, dtype=half, cache_enabled=True)
            if name == "16-mixed":
                self.scaler = torch.amp.GradScaler(device_type)
        elif self.dtype is not None:
            self.forward_context = self.default_dtype

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast the floating point weights and buffers where the precision is a true one; complex ones stay."""
        if self.dtype is None:
            return module
        # Not Module.to(dtype): it would cast complex tensors too and lose their imaginary part.
        return {torch.float64: module.double, torch.float16: module.half, torch.bfloat16: module.bfloat16}[self.dtype]()

    @property
    def convert_input(self) -> Callable[[Any], Any] | None:
        """A function that casts the floating point tensors of a batch, or None where batches stay as they are."""
        if self.dtype is None:
            return None
        dtype = self.dtype

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        return lambda batch: map_tensors(batch, cast)

    @contextlib.contextmanager
    def default_dtype(self) -> Iterator[None]:
        """Make new floating point tensors in the dtype of the weights: those that a step creates must match."""
        before = torch.get_default_dtype()
        assert self.dtype is not None
        torch.set_default_dtype(self.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    def state_dict(self) -> dict[str, Any]:
        """The scaler's state; empty without one."""
        return {} if self.scaler is None else dict(self.scaler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


def choose_precision(precision: object, device_type: str) -> Precision:
    """Return the precision the Trainer's `precision` names; None is "32-true", an instance is taken as it is."""
    if isinstance(precision, list) and len(precision) == 1:
        precision = precision[0]
    if isinstance(precision, Precision):
        return precision
    name = "32-true" if precision is None else str(precision)
    name = _ALIASES.get(name, name)
    if isinstance(precision, bool) or name not in _NAMES:
        meant = _OTHERS_NAMES.get(name.lower())
        hint = did_you_mean(name.lower(), (*_NAMES, *_ALIASES)) if meant is None else f" Did you mean {meant!r}?"
        raise MisconfigurationException(
            f"Trainer(precision={precision!r}): expected one of {', '.join(_NAMES)} or a short form "
            f"({', '.join(_ALIASES)}).{hint}"
        )
    if name == "64-true" and device_type == "mps":
        raise MisconfigurationException(
            "Trainer(precision='64-true', accelerator='mps'): mps has no 64-bit floats; use '32-true'."
        )
    return Precision(name, device_type)
