"""How many batches an optimizer step has, by epoch or by step: plain arithmetic, no trainer."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

__all__ = ["AccumulationSchedule"]


class AccumulationSchedule:
    """Factors by the epoch or step from which on they hold.

    Example:
        >>> schedule = AccumulationSchedule({4: 8})
        >>> schedule.factors, schedule.reached(3), schedule.reached(9)
        ({0: 1, 4: 8}, 0, 4)
        >>> schedule.after(0), schedule.after(4)
        (4, None)
    """

    __slots__ = ("_keys", "factors")

    def __init__(self, factors: Mapping[int, int]) -> None:
        self.factors = dict(sorted({0: 1, **factors}.items()))
        self._keys = list(self.factors)

    def reached(self, at: int) -> int:
        """Return the key of the factor that holds at this epoch or step."""
        return self._keys[bisect_right(self._keys, at) - 1]

    def after(self, at: int) -> int | None:
        """Return where the next factor begins, None behind the last."""
        place = bisect_right(self._keys, at)
        return self._keys[place] if place < len(self._keys) else None

    def steps_in(self, epochs: int, batches: int, *, by_step: bool) -> int:
        """Return how many optimizer steps so many epochs have, of so many batches each."""
        if not by_step:
            return sum(math.ceil(batches / self.factors[self.reached(epoch)]) for epoch in range(epochs))
        steps = 0
        for _ in range(epochs):
            left = batches
            while left > 0:
                factor, change = self.factors[self.reached(steps)], self.after(steps)
                windows = math.ceil(left / factor)
                if change is not None:
                    windows = min(windows, change - steps)
                steps, left = steps + windows, left - windows * factor
        return steps
