"""What is kept of one logged name: its value of this step, and what its epoch's reduction needs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from leyden.logging.exchange import Share

if TYPE_CHECKING:
    from leyden.logging.rules import Options

__all__ = ["Key", "Record", "Traits"]

Key = tuple[str, str, "int | None"]
"""Hook, name, dataloader index (``None`` unless there are several)."""


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
        "count", "dtype", "fresh", "group", "key", "latest", "of_all", "of_all_latest", "options", "shared_count",
        "shares", "step", "traits", "weighted",
    )  # fmt: skip

    def __init__(self, key: Key, traits: Traits, dtype: torch.dtype) -> None:
        self.key = key
        self.traits = traits
        self.dtype = dtype
        self.options: Options | None = None
        self.shares = False  # set where the processes' values are reduced to one, over `group`
        self.group: Any = None
        self.weighted = False
        self.reset()

    def reset(self) -> None:
        """Forget all values; the next epoch begins."""
        self.latest: float | Tensor | None = None
        self.step = 0
        self.fresh = False  # logged since it was last written to the loggers
        self.count = 0
        self.shared_count = 0  # what `count` was when the step's value was last shared
        self.of_all: Tensor | None = None  # the processes' value of the epoch, as they last shared it
        self.of_all_latest: tuple[Tensor, int] | None = None  # that of the step, and the step

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

    def latest_share(self) -> Share:
        """Return what this process adds to the step's value of all processes, which takes it in `take_latest`."""
        present = self.latest is not None and self.count != self.shared_count
        value = self.latest if present and self.latest is not None else 0.0
        return Share(self.op, value.detach() if isinstance(value, Tensor) else value, 1.0, present)

    def take_latest(self, value: float | None, step: int) -> None:
        """Take the processes' value of the last step that was logged; `step` is that where it was not in this one."""
        if value is not None:
            logged_here = self.count != self.shared_count
            self.of_all_latest = self._tensor(value), self.step if logged_here else step
            self.fresh = True
        self.shared_count = self.count

    def epoch_share(self) -> Share:
        """Return what this process adds to the epoch's value of all processes."""
        return Share("sum", 0.0, 1.0, self.count > 0)  # just whether it was logged

    def take_epoch(self, value: float | None) -> None:
        """Take the processes' value of the epoch so far."""
        self.of_all = None if value is None else self._tensor(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the values as plain data."""
        latest = self.latest.detach() if isinstance(self.latest, Tensor) else self.latest
        state: dict[str, Any] = {"latest": latest, "step": self.step, "fresh": self.fresh, "count": self.count}
        if self.shares and self.group is None:  # a group is known in this run alone
            state["of_all_latest"] = None if self.of_all_latest is None else list(self.of_all_latest)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.latest = state["latest"]
        self.step = state["step"]
        self.fresh = state["fresh"]
        self.count = state["count"]
        self.shares = "of_all_latest" in state
        of_all = state.get("of_all_latest")
        self.of_all_latest = None if of_all is None else (of_all[0], of_all[1])

    def description(self) -> dict[str, Any]:
        """Return, as plain data, how to make a record like this one."""
        return {"kind": self.kind, "traits": self.traits.as_dict(), "dtype": str(self.dtype).removeprefix("torch.")}

    @property
    def op(self) -> str:
        """How values of several processes become one: "mean", "sum", "max" or "min"."""
        return "mean"

    def _tensor(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(self.dtype).reshape(())
        return torch.tensor(float(value), dtype=self.dtype)  # float: torch takes no int above 64 bits
