"""What a spike is: a value that is much worse than the mean of those before it. Plain arithmetic, no trainer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Literal

__all__ = ["Spikes"]


class Spikes:
    """A running mean over a window, and whether a new value is far on the wrong side of it.

    Attributes:
        window: the last values, finite, in order.
        seen: values that were added, in all.

    Example:
        >>> spikes = Spikes(window=3, rtol=2.0)
        >>> for value in (1.0, 1.2, 0.8):
        ...     spikes.add(value)
        >>> spikes.mean, spikes.is_spike(2.9), spikes.is_spike(3.1), spikes.is_spike(math.nan)
        (1.0, False, True, True)
    """

    __slots__ = ("atol", "finite_only", "mode", "rtol", "seen", "warmup", "window")

    def __init__(
        self,
        mode: Literal["min", "max"] = "min",
        window: int = 10,
        warmup: int = 1,
        atol: float | None = None,
        rtol: float | None = 2.0,
        finite_only: bool = True,
    ) -> None:
        self.mode, self.warmup, self.atol, self.rtol, self.finite_only = mode, warmup, atol, rtol, finite_only
        self.window: deque[float] = deque(maxlen=window)
        self.seen = 0

    @property
    def mean(self) -> float:
        """The mean of the window; NaN while it is empty."""
        return math.fsum(self.window) / len(self.window) if self.window else math.nan

    def is_spike(self, value: float) -> bool:
        """Whether `value` is worse than the mean by more than every tolerance that was given."""
        if not math.isfinite(value):
            return self.finite_only
        if self.seen < self.warmup or not self.window:
            return False
        mean = self.mean
        worse = value - mean if self.mode == "min" else mean - value
        if worse <= 0:
            return False
        return (self.atol is None or worse > self.atol) and (self.rtol is None or worse > self.rtol * abs(mean))

    def add(self, value: float) -> None:
        """Take a value that was no spike into the mean; one that is not finite is counted only."""
        self.seen += 1
        if math.isfinite(value):
            self.window.append(value)

    def restore(self, window: Iterable[float], seen: int) -> None:
        """Go on from a window of before."""
        self.window = deque(window, maxlen=self.window.maxlen)
        self.seen = seen
