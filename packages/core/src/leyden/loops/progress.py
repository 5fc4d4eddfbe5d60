"""Counters of a loop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

__all__ = ["Counts", "Progress"]


@dataclass(slots=True)
class Counts:
    """How many were begun and how many of these are done; one apart while one is running."""

    started: int = 0
    completed: int = 0


@dataclass(slots=True)
class Progress:
    """Counts over the whole run and since the loop last began.

    Example:
        >>> Progress(Counts(started=2, completed=1)).total.completed
        1
    """

    total: Counts = field(default_factory=Counts)
    current: Counts = field(default_factory=Counts)

    def state_dict(self) -> dict[str, dict[str, int]]:
        """The counts as plain data."""
        return asdict(self)
