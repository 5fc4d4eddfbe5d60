"""A stopwatch: adds up laps and can go on from an earlier total."""

from __future__ import annotations

__all__ = ["Stopwatch"]


class Stopwatch:
    """Seconds spent in one stage, over all its runs.

    Example:
        >>> watch = Stopwatch()
        >>> watch.start(10.0)
        >>> watch.elapsed(13.0)
        3.0
        >>> watch.stop(14.0)
        >>> watch.elapsed(99.0)
        4.0
    """

    __slots__ = ("before", "ended", "started")

    def __init__(self, before: float = 0.0) -> None:
        self.before = before  # seconds of the laps that are over, and of the run that this one resumes
        self.started: float | None = None
        self.ended: float | None = None

    def start(self, now: float) -> None:
        """A lap begins."""
        self.before = self.elapsed(now)
        self.started, self.ended = now, None

    def stop(self, now: float) -> None:
        """The lap ends; without one nothing happens."""
        if self.started is not None and self.ended is None:
            self.ended = now

    def elapsed(self, now: float) -> float:
        """Return the seconds of all laps, the one still running up to `now`."""
        if self.started is None:
            return self.before
        return self.before + (now if self.ended is None else self.ended) - self.started
