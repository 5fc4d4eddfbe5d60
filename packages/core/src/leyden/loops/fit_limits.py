"""When a fit ends and when it validates: limits, intervals, and requests to stop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from leyden.loops.fit_state import FitState
from leyden.loops.schedule import ValidationSchedule, may_stop_early, reached
from leyden.rank_zero import rank_zero_info
from leyden.settings import Setting, Settings

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["FitLimits", "tell_of_no_work"]

_IN_CALLS, _BEFORE_THE_REST, _AT_THE_END = -0.25, 0.0, 0.5
"""Where behind a batch one looks whether training ends, in parts of the next: processes decide by it, each in its turn.

One that hears late that another has asked stops at a later place, and the other does not go by an earlier one alone.
"""


class FitLimits(FitState):
    """Decides where a fit ends and validates; it does neither.

    Attributes:
        schedule: after which batches validation runs.
    """

    max_epochs = Setting[int]()
    min_epochs = Setting[int]()
    max_steps = Setting[int]()
    min_steps = Setting[int]()

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.schedule = ValidationSchedule(math.inf, 1)
        self._announced_minimum = False
        self._validates = False  # for this epoch, as the next
        self._max_steps: float = math.inf

    @property
    def settings(self) -> Settings:
        """The trainer's."""
        return self._trainer.settings

    @property
    def done(self) -> bool:
        """Whether training is over."""
        settings, trainer = self._trainer.settings, self._trainer
        trainer.raise_on_sigterm()
        if reached(trainer.engine.steps, settings.max_steps):
            rank_zero_info(f"`Trainer.fit` stopped: `max_steps={settings.max_steps}` reached.")
            return True
        if reached(self.epoch, settings.max_epochs):
            rank_zero_info(f"`Trainer.fit` stopped: `max_epochs={settings.max_epochs}` reached.")
            return True
        return trainer.ends_with_epoch() and self._may_stop()

    def _may_stop(self) -> bool:
        settings = self._trainer.settings
        if may_stop_early(settings, self.epoch, self._trainer.engine.steps):
            return True
        if not self._announced_minimum:
            self._announced_minimum = True
            rank_zero_info(
                f"Trainer was asked to stop, but min_epochs={settings.min_epochs} or min_steps={settings.min_steps} is "
                "not reached; training goes on."
            )
        return False

    def _has_work(self) -> bool:
        settings = self._trainer.settings
        if self.num_batches == 0 or settings.max_steps == 0 or settings.max_epochs == 0:
            tell_of_no_work()
            return False
        return self._epoch_is_open or not self.done

    @property
    def _epoch_is_open(self) -> bool:
        """Whether a checkpoint was made in the epoch: its end is due, whatever limit is reached by now."""
        return self.epoch_started and not reached(self.epoch, self._trainer.settings.max_epochs)

    def _stops_here(self) -> bool:
        trainer = self._trainer
        trainer.raise_on_sigterm()
        return self._ends_at(_AT_THE_END)

    def _ends_at(self, place: float) -> bool:
        """Whether training ends behind the batch that is done, and at this place behind it."""
        return self._trainer.ends_here(self.batches_seen + place) and self._may_stop()

    def _ends_before_the_rest(self) -> bool:
        """Whether it ends before the batch's row of metrics and its validation, which come in any case then."""
        return self._ends_at(_BEFORE_THE_REST)

    def _reaches_a_limit(self) -> bool:
        """Whether a run that was cut behind a batch had nothing more to do in the epoch than to end it."""
        trainer = self._trainer
        return (trainer.attention_wanted and self._stops_here()) or trainer.engine.steps >= self._max_steps

    @property
    def validation_is_due(self) -> bool:
        """Whether a validation follows the batch that is done."""
        return self._validates and self._validation_due(self._trainer.attention_wanted and self._ends_at(_IN_CALLS))

    def _validation_due(self, ends: bool) -> bool:
        """Whether one follows the batch, with which training `ends` or not."""
        if self.validated_at == self.batches_seen:
            return False
        if ends:
            return self.schedule.due_in_epoch(self.epoch)  # the last chance to see the weights that will be kept
        return self.schedule.due(self.batches_done, self.batches_seen, self.epoch, last=self.is_last_batch)


def tell_of_no_work() -> None:
    """Say that a fit is over before it began."""
    rank_zero_info("`Trainer.fit` stopped: no training batches were asked for.")
