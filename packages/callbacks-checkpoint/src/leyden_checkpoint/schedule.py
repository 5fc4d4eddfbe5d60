"""When a checkpoint is due: every n optimizer steps, every n epochs, or every so many seconds."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["Schedule"]

_BETWEEN_LOOKS_S = 1.0


class Schedule:
    """One of three rhythms; zero or None switches a rhythm off.

    Attributes:
        looks_together: whether several processes look at the clock of the first, from time to time.
        look_at: the step from which on they do again.

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
        self.look_at = 0
        self.looks_together = False
        self._looked = 0, 0.0

    def start(self, step: int, now_s: float) -> None:
        """Training begins, or goes on, after `step` optimizer steps; `now_s` is a clock's reading in seconds."""
        self._step = step
        self._last_s = now_s
        self.look_at, self._looked = 0, (step, now_s)

    def next_look(self, step: int, now_s: float) -> int:
        """Return at which step to look at the clock next, by the pace of the last steps: within a second or so.

        Half of the time that is left is passed by then, if that is less: the last looks are a step apart.

        Example:
            >>> schedule = Schedule(interval=timedelta(seconds=1))
            >>> schedule.start(step=0, now_s=0.0)
            >>> schedule.next_look(step=10, now_s=0.2), schedule.next_look(step=30, now_s=0.6)
            (30, 40)
        """
        assert self.interval_s is not None
        (step_before, before_s), self._looked = self._looked, (step, now_s)
        ahead_s = min((self._last_s + self.interval_s - now_s) / 2, _BETWEEN_LOOKS_S)
        seconds, steps = now_s - before_s, step - step_before
        return step + max(1, int(round(ahead_s * steps / seconds, 6)) if seconds > 0 else 1)

    def pass_by(self, step: int) -> None:
        """Take note of a step at which nothing is looked at."""
        self._step = step

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
