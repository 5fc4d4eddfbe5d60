"""Does a score belong to the weights at hand? Only then may it stand beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from leyden.errors import did_you_mean

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["MissingMetric", "Moment", "ScoreWatch", "missing_metric", "saves_at_epoch_end"]

Moment = Literal["batch", "validation", "epoch"]
"""When a callback looks: after a training batch, after a validation, at the end of a training epoch."""


_LEARNED = ("validated", "is_of_validation", "batch_began_at", "batch_ended_at")


class MissingMetric(Exception):
    """The monitored name was not logged although everything that could log it has run."""


class ScoreWatch:
    """Follows a run so far as it must to tell a score of this step from an older one.

    A value logged in `training_step` carries the count of optimizer steps from before that batch's step, one logged in
    a validation the count at that validation. Both are current until the next batch ends.

    Attributes:
        may_come_any_batch: the score that was looked for last is one that training steps log, if not each of them.
    """

    def __init__(self, monitor: str) -> None:
        self._monitor = monitor
        self.may_come_any_batch = False
        self._validated = False
        self._is_of_validation = False
        self._batch_began_at = 0
        self._batch_ended_at = 0

    def start(self, step: int) -> None:
        """Training begins, or goes on, after `step` optimizer steps."""
        self._validated = self._is_of_validation = False
        self._batch_began_at = self._batch_ended_at = step

    def state_dict(self) -> dict[str, Any]:
        """Return what was learned so far, as plain data."""
        return {name: getattr(self, f"_{name}") for name in _LEARNED}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what an earlier run had learned."""
        for name in _LEARNED:
            setattr(self, f"_{name}", state[name])

    def batch_ended(self, step: int) -> None:
        """A training batch ended; `step` optimizer steps have been taken."""
        self._batch_began_at, self._batch_ended_at = self._batch_ended_at, step

    def validation_ended(self, trainer: Trainer) -> None:
        """A validation ended: learn whether it is what logs the metric."""
        metrics = trainer.callback_metrics
        self._validated = True
        if self._monitor in metrics:
            self._is_of_validation = metrics.step_of(self._monitor) == trainer.global_step

    def look(self, trainer: Trainer, counters: Mapping[str, Tensor], moment: Moment) -> Tensor | None:
        """Return the score of this step, or None where it is yet to come.

        Raises:
            MissingMetric: nothing that is still to run in this epoch will bring it.
        """
        metrics = trainer.callback_metrics
        if self._monitor not in metrics:
            if self._monitor in counters:
                return counters[self._monitor]
            self.may_come_any_batch = False
            if self._may_still_come(trainer, moment):
                return None
            raise MissingMetric
        logged_at = metrics.step_of(self._monitor)
        self.may_come_any_batch = not self._is_of_validation
        oldest = trainer.global_step if self._is_of_validation else self._batch_began_at
        return metrics[self._monitor].detach().cpu().clone() if logged_at >= oldest else None

    def _may_still_come(self, trainer: Trainer, moment: Moment) -> bool:
        if moment == "batch":
            return True
        if moment == "validation":
            return saves_at_epoch_end(trainer)  # the epoch's own metrics follow at once
        return _validates(trainer) and not self._validated


def saves_at_epoch_end(trainer: Trainer) -> bool:
    """Whether all metrics of an epoch are there at its end: a validation ends each epoch, or there is none."""
    if not _validates(trainer):
        return True
    return trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval in (None, 1.0)


def weights_change_at_epoch_end(trainer: Trainer) -> bool:
    """Whether a callback says that it changes weights, in a hook that an epoch's end has after its validation."""
    entries = trainer.plan.entries("on_train_epoch_end")
    return any(getattr(entry.owner, "changes_weights", False) for entry in entries)


def _validates(trainer: Trainer) -> bool:
    return sum(trainer.num_val_batches) > 0


def missing_metric(monitor: str | None, trainer: Trainer, owner: str) -> str:
    """Return the message for a monitored name that nobody logs: what there is, and what was probably meant."""
    names = sorted(trainer.callback_metrics)
    return (
        f"{owner}(monitor={monitor!r}) has a checkpoint to rank, but no {monitor!r} was logged. "
        f"There are: {', '.join(names) or 'no metrics at all'}.{did_you_mean(str(monitor), names)} "
        f"Log it with self.log({monitor!r}, ...), or monitor one that is there; what is logged for training epochs "
        "is there at their end (save_on_train_epoch_end=True)."
    )
