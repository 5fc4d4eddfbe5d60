"""What is kept of one logged name: its value of this step, and what its epoch's reduction needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from leyden.logging.rules import Options

__all__ = ["Key", "Record", "Reduce", "Traits"]

Key = tuple[str, str, "int | None"]
"""Hook, name, dataloader index (``None`` unless there are several)."""


class Reduce(Protocol):
    """Reduces a tensor over the processes of a run: ``strategy.reduce``."""

    def __call__(self, tensor: Tensor, op: str, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Traits:
    """How a name is logged, and the names that follow from it.

    With both levels on, loggers get ``name_step`` and ``name_epoch``, and whoever monitors a metric the bare name too.

    Example:
        >>> Traits("loss", "/dataloader_idx_1", on_step=True, on_epoch=True).epoch_name
        'loss_epoch/dataloader_idx_1'
    """

    name: str
    suffix: str = ""
    on_step: bool = False
    on_epoch: bool = True
    prog_bar: bool = False
    to_logger: bool = True
    bare_name: str = field(init=False)
    step_name: str = field(init=False)
    epoch_name: str = field(init=False)

    def __post_init__(self) -> None:
        forked = self.on_step and self.on_epoch
        object.__setattr__(self, "bare_name", f"{self.name}{self.suffix}")
        object.__setattr__(self, "step_name", f"{self.name}_step{self.suffix}" if forked else self.bare_name)
        object.__setattr__(self, "epoch_name", f"{self.name}_epoch{self.suffix}" if forked else self.bare_name)

    def as_dict(self) -> dict[str, Any]:
        """Return what the constructor takes."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.init}


class Record:
    """A name logged for steps only: its latest value. What reduces over an epoch extends it.

    Values come as plain numbers or, from a GPU, as detached copies of tensors; they leave as tensors.
    """

    kind: ClassVar[str] = "latest"

    __slots__ = (
        "count", "dtype", "fresh", "key", "latest", "options", "reduce", "step", "traits", "weighted",
    )  # fmt: skip

    def __init__(self, key: Key, traits: Traits, dtype: torch.dtype) -> None:
        self.key = key
        self.traits = traits
        self.dtype = dtype
        self.options: Options | None = None
        self.reduce: Reduce | None = None  # set where values are reduced over processes
        self.weighted = False
        self.reset()

    def reset(self) -> None:
        """Forget all values; the next epoch begins."""
        self.latest: float | Tensor | None = None
        self.step = 0
        self.fresh = False  # logged since it was last written to the loggers
        self.count = 0

    def add(self, value: Any, size: int, step: int) -> None:
        """Take the value of one call; `size` is its weight in a mean, `step` the optimizer steps taken so far."""
        self.latest = value
        self.step = step
        self.fresh = True
        self.count += 1

    def latest_tensor(self) -> Tensor:
        """Return this step's value."""
        assert self.latest is not None
        return self._tensor(self.latest)

    def compute(self) -> Tensor:
        """Return the epoch's value so far; changes nothing."""
        return self.latest_tensor()

    def sync_latest(self) -> None:
        """Reduce this step's value over the processes, all of which must have logged it."""
        if self.reduce is not None and self.latest is not None:
            self.latest = self.reduce(self.latest_tensor(), self._op())

    def state_dict(self) -> dict[str, Any]:
        """Return the values as plain data."""
        latest = self.latest.detach() if isinstance(self.latest, Tensor) else self.latest
        return {"latest": latest, "step": self.step, "fresh": self.fresh, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.latest = state["latest"]
        self.step = state["step"]
        self.fresh = state["fresh"]
        self.count = state["count"]

    def description(self) -> dict[str, Any]:
        """Return, as plain data, how to make a record like this one."""
        return {"kind": self.kind, "traits": self.traits.as_dict(), "dtype": str(self.dtype).removeprefix("torch.")}

    def _op(self) -> str:
        return "mean"

    def _tensor(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(self.dtype).reshape(())
        return torch.tensor(float(value), dtype=self.dtype)  # float: torch takes no int above 64 bits

    def _reduced(self, value: float | Tensor, op: str) -> Tensor:
        total = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
        return total if self.reduce is None else self.reduce(total, op)
