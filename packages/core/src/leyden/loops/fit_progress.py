"""How far a fit has come: its counters, as users read them and as a checkpoint keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.loops.progress import Counts, Progress

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["FitProgress"]

_KEPT = ("epoch", "batches_done", "batches_seen", "batches_that_stepped", "validated_at", "is_last_batch")


class FitProgress:
    """The counters of a fit.

    Attributes:
        epoch: the epoch now running, from 0; after the last epoch the number of epochs run. ``trainer.current_epoch``.
        batch_idx: the batch now running, within its epoch.
        batches_done: training batches finished within this epoch.
        batches_seen: training batches finished since the run began.
        batches_that_stepped: batches that ended an accumulation window; the loggers' step.
        is_last_batch: whether the batch now running is the epoch's last.
        epoch_ended: whether this epoch's `on_train_epoch_end` has begun (so that a run resumed from within it goes on
            after it).
        window_ends: whether the batch now running ends its accumulation window.
        validated_at: `batches_seen` when validation last ended, -1 before.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.epoch = self.batches_done = self.batches_seen = self.batches_that_stepped = 0
        self.batch_idx = -1
        self.validated_at = -1
        self.is_last_batch = self.window_ends = self.epoch_ended = False

    @property
    def epoch_progress(self) -> Progress:
        """Epochs begun and done."""
        started = self.epoch + (self._trainer.training and self.batch_idx >= 0)
        return Progress(
            Counts(started, started, self.epoch, self.epoch), Counts(started, started, self.epoch, self.epoch)
        )

    @property
    def batch_progress(self) -> Progress:
        """Training batches begun and done, in the run and in this epoch."""
        total, current = self.batches_seen, self.batches_done
        return Progress(Counts(total, total, total, total), Counts(current, current, current, current))

    def begin_anew(self) -> None:
        """Forget an epoch that an earlier fit left unfinished."""
        self.batches_done, self.epoch_ended, self.batch_idx = 0, False, -1
        self.is_last_batch = self.window_ends = False

    def state_dict(self) -> dict[str, int | bool]:
        """Progress as plain data; taken within a batch's last hooks, that batch counts as done."""
        state: dict[str, int | bool] = {name: getattr(self, name) for name in (*_KEPT, "epoch_ended")}
        state["batches_that_stepped"] += bool(self.window_ends)
        return state

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Go on from `state`. An epoch that a limit cut short is taken up again where it was cut."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.epoch_ended = bool(state["epoch_ended"] and state["is_last_batch"])
        self.batch_idx = self.batches_done - 1
        self.window_ends = False
