"""Counters of a loop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

__all__ = ["Counts", "Progress"]


@dataclass(slots=True)
class Counts:
    """How many were made ready, started, processed and completed."""

    ready: int = 0
    started: int = 0
    processed: int = 0
    completed: int = 0


@dataclass(slots=True)
class Progress:
    """Counts over the whole run and since the loop last began.

    Example:
        >>> Progress(Counts(2, 2, 2, 1)).total.completed
        1
    """

    total: Counts = field(default_factory=Counts)
    current: Counts = field(default_factory=Counts)

    def state_dict(self) -> dict[str, dict[str, int]]:
        """The counts as plain data."""
        return asdict(self)
