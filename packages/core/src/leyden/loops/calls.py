"""Calls between the batches of an epoch, for who looks at a run now and then."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["EpochCalls"]


class EpochCalls:
    """What is to be called when the running epoch has come so far. A hook of every batch takes 3 % of a step of 50 µs.

    A call is made once, behind all hooks of the batch with which it is due and before the validation that is due then;
    where the epoch is over before, not any more.

    Attributes:
        batches_done: training batches finished within this epoch.
        call_behind: the batch after which a call is due; infinity without one.
    """

    batches_done: int

    def __init__(self) -> None:
        self._calls: list[tuple[int, int | None, Callable[[int], object]]] = []  # behind so many batches, at that step
        self.call_behind: float = math.inf

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of the run."""
        raise NotImplementedError

    def batches_until(self, step: int) -> int:
        """Return how many batches of the epoch are done, at the earliest, when so many optimizer steps are taken."""
        raise NotImplementedError

    def call_after(self, batches: int, call: Callable[[int], object]) -> None:
        """Have `call` made, with the number of batches done, when `batches` or more of the running epoch are done."""
        self._await(batches, None, call)

    def call_at_step(self, step: int, call: Callable[[int], object]) -> None:
        """Have `call` made likewise, behind the batch with the optimizer step that is the run's `step`-th.

        Steps that are left out are waited for. Under manual optimisation the number of steps is asked after each batch.
        """
        self._await(self.batches_until(step), step, call)

    def _await(self, batches: int, step: int | None, call: Callable[[int], object]) -> None:
        self._calls.append((batches, step, call))
        self.call_behind = min(self.call_behind, batches - 1)

    def make_calls(self) -> None:
        """Make the calls that are due."""
        for batches, step, call in self._take_calls():
            if (batches <= self.batches_done) if step is None else (step <= self.steps_taken):
                call(self.batches_done)
            elif step is None:
                self._await(batches, None, call)
            else:  # timed anew, since a call before may have changed the size of windows
                self.call_at_step(step, call)

    def time_calls_anew(self) -> None:
        """Accumulation windows have another size from here on, so that steps come sooner or later."""
        for batches, step, call in self._take_calls():
            self._await(batches if step is None else self.batches_until(step), step, call)

    def _take_calls(self) -> list[tuple[int, int | None, Callable[[int], object]]]:
        calls, self._calls, self.call_behind = self._calls, [], math.inf
        return calls

    def forget_calls(self) -> None:
        """Drop the calls that are not made yet."""
        self._calls, self.call_behind = [], math.inf
