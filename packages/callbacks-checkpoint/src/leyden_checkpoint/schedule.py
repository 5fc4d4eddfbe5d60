"""When a checkpoint is due: every n optimizer steps, every n epochs, or every so many seconds."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["Schedule"]


class Schedule:
    """One of three rhythms; zero or None switches a rhythm off.

    Example:
        >>> schedule = Schedule(every_n_steps=3)
        >>> schedule.start(step=0, now_s=0.0)
        >>> [schedule.is_due_at_step(step, now_s=0.0) for step in (1, 2, 3, 3, 4)]
        [False, False, True, False, False]
    """

    def __init__(self, every_n_steps: int = 0, every_n_epochs: int = 0, interval: timedelta | None = None) -> None:
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.interval_s = None if interval is None else interval.total_seconds()
        self.follows_steps = every_n_steps > 0 or interval is not None
        self._step = 0
        self._last_s = 0.0

    def start(self, step: int, now_s: float) -> None:
        """Training begins, or goes on, after `step` optimizer steps; `now_s` is a clock's reading in seconds."""
        self._step = step
        self._last_s = now_s

    def stepped(self, step: int) -> bool:
        """Whether an optimizer stepped since this was last asked: within an accumulation window nothing is new."""
        return step != self._step

    def is_due_at_step(self, step: int, now_s: float) -> bool:
        """Whether a checkpoint is due now, after a training batch.

        Several optimizers advance the count by several a batch, so it is enough that a multiple of n was passed.
        """
        before, self._step = self._step, step
        if step == before:
            return False
        if self.every_n_steps > 0:
            return step // self.every_n_steps > before // self.every_n_steps
        if self.interval_s is not None and now_s - self._last_s >= self.interval_s:
            self._last_s = now_s
            return True
        return False

    def is_due_after_epoch(self, epoch: int) -> bool:
        """Whether a checkpoint is due at the end of `epoch`, or of a validation in it; `epoch` counts from zero."""
        return self.every_n_epochs > 0 and (epoch + 1) % self.every_n_epochs == 0
