"""When a fit ends, when validation is due, how many steps to expect: the arithmetic of limits and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from leyden.errors import MisconfigurationException
from leyden.settings import Settings

__all__ = ["ValidationSchedule", "expected_steps", "may_stop_early", "reached"]


@dataclass(frozen=True, slots=True)
class ValidationSchedule:
    """After which training batches validation runs.

    Attributes:
        every_n_batches: batches between validations, counted within the epoch, or over epochs where `every_n_epochs` is
            None; ``math.inf`` for the end of the epoch.
        every_n_epochs: epochs between epochs that validate, or None.
    """

    every_n_batches: int | float
    every_n_epochs: int | None

    @classmethod
    def of(cls, settings: Settings, num_batches: int | float) -> ValidationSchedule:
        """Return the schedule for epochs of `num_batches` (``math.inf`` when unknown)."""
        interval, every_n_epochs = settings.val_check_interval, settings.check_val_every_n_epoch
        if interval is None or (isinstance(interval, float) and interval == 1.0):
            return cls(math.inf, every_n_epochs)
        if isinstance(interval, int):
            if every_n_epochs is not None and interval > num_batches:
                raise MisconfigurationException(
                    f"Trainer(val_check_interval={interval}): the epoch has only {num_batches} training batches, so "
                    "validation would never run. Lower it, give a fraction of the epoch, or set "
                    "check_val_every_n_epoch=None to count batches across epochs."
                )
            return cls(interval, every_n_epochs)
        if num_batches == math.inf:
            raise MisconfigurationException(
                f"Trainer(val_check_interval={interval}): a fraction of the epoch needs a training dataloader of "
                "known length; give a number of batches instead, or 1.0 for the end of the epoch."
            )
        # A product such as 100 * 0.29 = 28.999999999999996 means 29 batches, as it does for limits.
        return cls(max(1, math.floor(num_batches * interval + 1e-9)), every_n_epochs)

    def due(self, batches_in_epoch: int, batches_in_all: int, epoch: int, *, last: bool) -> bool:
        """Whether to validate after that many batches; `last` says whether the epoch's batches end here."""
        if not self.due_in_epoch(epoch):
            return False
        if self.every_n_batches == math.inf:
            return last
        count = batches_in_all if self.every_n_epochs is None else batches_in_epoch
        return count % self.every_n_batches == 0

    def is_beyond(self, batches: int, epoch: int) -> bool:
        """Whether the first epoch that should validate, with that many batches, is over before the interval is."""
        if self.every_n_epochs is None or epoch + 1 != self.every_n_epochs:
            return False
        return batches < self.every_n_batches < math.inf

    def due_in_epoch(self, epoch: int) -> bool:
        """Whether this epoch validates at all."""
        return self.every_n_epochs is None or (epoch + 1) % self.every_n_epochs == 0


def reached(count: int, limit: int | None) -> bool:
    """Whether `count` has reached `limit`; -1 and None are no limit."""
    return limit is not None and limit != -1 and count >= limit


def may_stop_early(settings: Settings, epochs: int, steps: int) -> bool:
    """Whether ``should_stop`` may be followed: `min_epochs` and `min_steps` are behind us."""
    return epochs >= (settings.min_epochs or 0) and steps >= (settings.min_steps or 0)


def expected_steps(
    settings: Settings,
    num_batches: int | float,
    accumulate: int,
    steps_in: Callable[[int, int], int] | None = None,
) -> int | float:
    """Return how many optimizer steps the fit will take if nothing stops it; ``math.inf`` when there is no limit.

    Where accumulation changes, `steps_in` says it for a number of epochs of so many batches.
    """
    limit = math.inf if settings.max_steps == -1 else settings.max_steps
    if settings.max_epochs == -1 or num_batches == math.inf:
        return limit
    assert settings.max_epochs is not None
    if steps_in is not None:
        return min(steps_in(settings.max_epochs, int(num_batches)), limit)
    return min(math.ceil(num_batches / accumulate) * settings.max_epochs, limit)
