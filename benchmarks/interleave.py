"""Timing that a busy machine cannot bend: the hand-written loop runs between two stretches of the measured one.

A framework's loop is timed from within, by the batches it reads: every stretch of ``steps`` batches is followed by the
same number of hand-written steps, in the same process and milliseconds apart, so that a change of clock rate or a
neighbour's load hits both. Neither start-up nor shut-down of a run is in the figures, and the batches come out of a C
iterator at the cost of a list's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from benchmarks.handwritten import make_batches

__all__ = ["InterleavedBatches", "Timing"]


@dataclass(frozen=True, slots=True)
class Timing:
    """Time of a step, µs: medians; ratio and difference are those of neighbouring stretches."""

    handwritten_us: float
    measured_us: float
    ratio: float
    ratio_of_minima: float
    above_us: float
    stretches: int


class InterleavedBatches:
    """Iterate it once: serves stretches of ``steps`` batches and keeps the times of all after the first ``warmup``.

    `batches` are those of a stretch where they are not the yardstick's; `clock` tells the time in ns, by default that
    of this process on the CPU.

    Example:
        >>> batches = InterleavedBatches(list, steps=2, stretches=3, warmup=1)
        >>> len(list(batches)), batches.timing().stretches
        (8, 3)
    """

    def __init__(
        self, by_hand: Callable[[Iterable[Tensor]], object], *, steps: int = 250, stretches: int = 40, warmup: int = 2,
        batches: list[Tensor] | None = None, clock: Callable[[], int] = time.process_time_ns,
    ) -> None:  # fmt: skip
        self._by_hand, self._batches, self._clock = by_hand, batches or make_batches(steps), clock
        self._stretches, self._warmup = stretches, warmup
        self._samples: list[tuple[int, int]] = []  # (hand-written, measured), ns

    def __len__(self) -> int:
        return len(self._batches) * (self._stretches + self._warmup)

    def __iter__(self) -> Iterator[Tensor]:
        return chain.from_iterable(self._served())

    def _served(self) -> Iterator[list[Tensor]]:
        clock, batches = self._clock, self._batches
        for number in range(self._warmup + self._stretches):
            start = clock()
            self._by_hand(batches)
            between = clock()
            yield batches
            end = clock()
            if number >= self._warmup:
                self._samples.append((between - start, end - between))

    def timing(self) -> Timing:
        """What the stretches gave; call it after the run."""
        scale = 1e-3 / len(self._batches)
        by_hand, measured = zip(*self._samples, strict=True)
        return Timing(
            handwritten_us=statistics.median(by_hand) * scale,
            measured_us=statistics.median(measured) * scale,
            ratio=statistics.median(b / a for a, b in self._samples),
            ratio_of_minima=min(measured) / min(by_hand),
            above_us=statistics.median(b - a for a, b in self._samples) * scale,
            stretches=len(self._samples),
        )
