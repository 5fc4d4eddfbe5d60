"""Values that live on a GPU, summed up there: the host never waits for them and memory stays flat."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["FOLD_EVERY_VALUES", "DeviceBuffer", "Reduction", "widest_on"]

Reduction = Literal["mean", "sum", "max", "min"]

FOLD_EVERY_VALUES = 64
"""How many copies are held before they are folded into one number: kernels are launched per fold, not per value."""


def widest_on(device: torch.device) -> torch.dtype:
    """Return the widest floating point dtype there is on `device`."""
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


class DeviceBuffer:
    """A weighted sum, or a maximum or minimum, of 0-d tensors of one device.

    Folding happens at fixed counts, never because somebody looked, so a result doesn't depend on who read it before.

    Example:
        >>> buffer = DeviceBuffer("mean", torch.device("cpu"))
        >>> buffer.append(torch.tensor(1.0), 3)
        >>> buffer.append(torch.tensor(5.0), 1)
        >>> buffer.total()
        tensor(8., dtype=torch.float64)
    """

    __slots__ = ("_folded", "_sizes", "_values", "device", "dtype", "reduction")

    def __init__(self, reduction: Reduction, device: torch.device) -> None:
        self.reduction = reduction
        self.device = device
        self.dtype = widest_on(device)
        self._values: list[Tensor] = []
        self._sizes: list[int] = []
        self._folded: Tensor | None = None

    def append(self, value: Tensor, size: int) -> None:
        """Take a detached copy of a value, which counts `size` times in a mean."""
        self._values.append(
            value if value.ndim == 0 and value.device == self.device else value.to(self.device).reshape(())
        )
        self._sizes.append(size)
        if len(self._values) == FOLD_EVERY_VALUES:
            self._folded = self.total()
            self._values.clear()
            self._sizes.clear()

    def total(self) -> Tensor:
        """Return the weighted sum (for a mean), sum, maximum or minimum so far; changes nothing."""
        if not self._values:
            assert self._folded is not None, "an empty buffer has no total"
            return self._folded
        column = torch.stack(self._values).to(self.dtype)
        if self.reduction == "max":
            part = column.max()
        elif self.reduction == "min":
            part = column.min()
        elif self.reduction == "sum":
            part = column.sum()
        else:
            part = self._weighted(column)
        if self._folded is None:
            return part
        if self.reduction == "max":
            return torch.maximum(self._folded, part)
        if self.reduction == "min":
            return torch.minimum(self._folded, part)
        return self._folded + part

    def _weighted(self, column: Tensor) -> Tensor:
        size = self._sizes[0]
        if self._sizes.count(size) == len(self._sizes):
            return column.sum() * size
        # non_blocking: a blocking copy to a GPU waits until everything queued there is done
        return (column * torch.tensor(self._sizes, dtype=self.dtype).to(self.device, non_blocking=True)).sum()

    def state_dict(self) -> dict[str, Any]:
        """Return the folded number and the values not yet folded, so that later folds fall on the same values."""
        return {
            "folded": self._folded,
            "values": torch.stack(self._values).to(self.dtype) if self._values else None,
            "sizes": [int(size) for size in self._sizes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, on this buffer's device."""
        folded, values = state["folded"], state["values"]
        self._folded = None if folded is None else folded.to(self.device, self.dtype)
        self._values = [] if values is None else list(values.to(self.device, self.dtype).unbind())
        self._sizes = list(state["sizes"])
