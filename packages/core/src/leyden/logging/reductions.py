"""Records that reduce over an epoch: to a mean, a sum, a largest or smallest value, or by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from leyden.logging.buffer import DeviceBuffer, Reduction
from leyden.logging.exchange import Share
from leyden.logging.records import Key, Record, Traits

__all__ = ["ExtremeRecord", "KeptRecord", "MeanRecord", "SumRecord"]


class _RunningRecord(Record):
    """A reduction that needs one number: of CPU values as a float, of GPU values in a buffer on their device.

    ``Tensor.item()`` of a CPU tensor is the cheapest copy there is (0.15 us; ``detach().clone()`` takes 1.6 us), and
    Python's float has the precision of float64.
    """

    __slots__ = ("buffer", "number", "weight")

    reduction: ClassVar[Reduction]

    def reset(self) -> None:
        super().reset()
        self.number: float | None = None
        self.weight: float = 0
        self.buffer: DeviceBuffer | None = None

    def _buffer(self, value: Tensor) -> DeviceBuffer:
        if self.buffer is None:
            self.buffer = DeviceBuffer(self._buffer_reduction(), value.device)
        return self.buffer

    def _buffer_reduction(self) -> Reduction:
        return self.reduction

    def _total(self) -> float | Tensor:
        total: float | Tensor = self.number or 0.0
        return total if self.buffer is None else total + self.buffer.total()

    def state_dict(self) -> dict[str, Any]:
        buffer = None if self.buffer is None else {**self.buffer.state_dict(), "device": str(self.buffer.device)}
        return {**super().state_dict(), "number": self.number, "weight": self.weight, "buffer": buffer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.number = state["number"]
        self.weight = state["weight"]
        self.buffer = None
        if state["buffer"] is not None:
            self.buffer = DeviceBuffer(self._buffer_reduction(), torch.device(state["buffer"]["device"]))
            self.buffer.load_state_dict(state["buffer"])


class MeanRecord(_RunningRecord):
    """The mean of an epoch, each value weighted by the size of its batch."""

    kind = "mean"
    reduction = "mean"
    __slots__ = ()

    def add(self, value: Any, size: int, step: int) -> None:
        self.latest = value
        self.step = step
        self.fresh = True
        self.count += 1
        self.weight += size
        if type(value) is Tensor:
            self._buffer(value).append(value, size)
        else:
            self.number = value * size if self.number is None else self.number + value * size

    def compute(self) -> Tensor:
        return self._tensor(self._total() / self.weight if self.weight else float("nan"))

    def epoch_share(self) -> Share:
        return Share("mean", self._total(), float(self.weight), self.count > 0)


class SumRecord(_RunningRecord):
    """The sum of an epoch."""

    kind = "sum"
    reduction = "sum"
    __slots__ = ()

    def add(self, value: Any, size: int, step: int) -> None:
        super().add(value, size, step)
        if type(value) is Tensor:
            self._buffer(value).append(value, 1)
        else:
            self.number = value if self.number is None else self.number + value

    def compute(self) -> Tensor:
        return self._tensor(self._total())

    def epoch_share(self) -> Share:
        return Share("sum", self._total(), 1.0, self.count > 0)

    @property
    def op(self) -> str:
        return "sum"


class ExtremeRecord(_RunningRecord):
    """The largest or smallest value of an epoch; nan once one was nan, as in torch."""

    kind = "extreme"
    __slots__ = ("largest",)

    def __init__(self, key: Key, traits: Traits, dtype: torch.dtype, *, largest: bool) -> None:
        self.largest = largest
        super().__init__(key, traits, dtype)

    def add(self, value: Any, size: int, step: int) -> None:
        super().add(value, size, step)
        if type(value) is Tensor:
            self._buffer(value).append(value, 1)
        elif self.number is None or value != value or (value > self.number if self.largest else value < self.number):
            self.number = value

    def compute(self) -> Tensor:
        return self._tensor(self._best())

    def epoch_share(self) -> Share:
        return Share(self.op, self._best() if self.count else 0.0, 1.0, self.count > 0)

    def _best(self) -> float | Tensor:
        best: float | Tensor | None = self.number
        if self.buffer is not None:
            on_device = self.buffer.total()
            pick = torch.maximum if self.largest else torch.minimum
            best = on_device if best is None else pick(on_device, torch.full_like(on_device, float(best)))
        assert best is not None
        return best

    def description(self) -> dict[str, Any]:
        return {**super().description(), "largest": self.largest}

    @property
    def op(self) -> str:
        return "max" if self.largest else "min"

    def _buffer_reduction(self) -> Reduction:
        return "max" if self.largest else "min"


class KeptRecord(Record):
    """Every value of an epoch: for a reduction of the user's own, or where the graph is to be kept.

    It grows by one value a step, which is what ``reduce_fx=<function>`` and ``enable_graph=True`` ask for.
    """

    kind = "kept"
    __slots__ = ("function", "reduction", "sizes", "values")

    def __init__(
        self,
        key: Key,
        traits: Traits,
        dtype: torch.dtype,
        *,
        reduction: Reduction | None,
        function: Callable[[Tensor], Any] | None,
    ) -> None:
        self.reduction = reduction
        self.function = function
        super().__init__(key, traits, dtype)

    def reset(self) -> None:
        super().reset()
        self.values: list[float | Tensor] = []
        self.sizes: list[int] = []

    def add(self, value: Any, size: int, step: int) -> None:
        super().add(value, size, step)
        self.values.append(value)
        self.sizes.append(size)

    def stacked(self) -> Tensor:
        """Return all values of the epoch so far, in order, on the device of the first tensor."""
        device = next((v.device for v in self.values if isinstance(v, Tensor)), torch.device("cpu"))
        return torch.stack([self._tensor(value).to(device) for value in self.values])

    def compute(self) -> Tensor:
        return self.compute_of(self.stacked())

    def compute_of(self, column: Tensor) -> Tensor:
        """Return what all values of the epoch, `column`, come to."""
        if self.reduction == "mean":
            sizes = torch.tensor(self.sizes, dtype=self.dtype, device=column.device)
            return (column * sizes).sum() / sizes.sum()
        if self.reduction is not None:
            return getattr(column, self.reduction)()  # type: ignore[no-any-return]
        if self.function is not None:
            return torch.as_tensor(self.function(column), dtype=self.dtype, device=column.device)
        raise RuntimeError(f"the reduction of {self.key[1]!r} is not known yet")

    def epoch_share(self) -> Share:
        if self.reduction is None or not self.count:  # a function of the user's own gets the values of all processes
            return Share(self.op, 0.0, 1.0, self.count > 0)
        value = self.compute().detach()
        if self.reduction != "mean":
            return Share(self.reduction, value, 1.0, True)
        return Share("mean", value * sum(self.sizes), float(sum(self.sizes)), True)

    @property
    def reducible(self) -> bool:
        """Whether the reduction is known: a checkpoint can't hold a function, only the next call of log brings it."""
        return self.reduction is not None or self.function is not None

    def description(self) -> dict[str, Any]:
        return {**super().description(), "reduction": self.reduction}

    def state_dict(self) -> dict[str, Any]:
        values = self.stacked().detach() if self.values else None
        return {**super().state_dict(), "values": values, "sizes": [int(size) for size in self.sizes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.values = [] if state["values"] is None else list(state["values"].unbind())
        self.sizes = list(state["sizes"])

    @property
    def op(self) -> str:
        return self.reduction or "mean"
