"""How far a fit has come: its counters, and what of a batch is still to be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from leyden.loops.calls import EpochCalls
from leyden.loops.progress import Counts, Progress

if TYPE_CHECKING:
    from leyden.data.sources import TrainSource
    from leyden.trainer import Trainer

__all__ = ["FitProgress"]


class FitProgress(EpochCalls):
    """The counters of a fit.

    Attributes:
        epoch: the epoch now running, from 0; after the last epoch the number of epochs run. ``trainer.current_epoch``.
        epoch_started: whether the epoch's `on_train_epoch_start` is done.
        epoch_skipped: whether the module's `on_train_batch_start` gave up the rest of the epoch.
        batch_idx: the batch now running, within its epoch; -1 before the first.
        batches_done: training batches finished within this epoch, that of a running `on_train_batch_end` included.
        batches_seen: training batches finished since the run began.
        batches_that_stepped: batches that ended an accumulation window; the loggers' step.
        is_last_batch: whether the batch now running is the epoch's last.
        window_ends: whether the batch now running ends its accumulation window.
        stepped: whether it took an optimizer step.
        window_from: the batch of this epoch from which accumulation windows are counted; above 0 where their size has
            changed within it.
        left_out: indices of this epoch's batches that are read and not trained, as if their `training_step` returned
            None; to be set in `on_train_start` or `on_train_epoch_start`.
        validated_at: `batches_seen` when validation last ended, -1 before.
        pending: what is being done, and will be finished first by a run that goes on from here: "batch_end" (the
            batch's step is made, its schedulers and last hooks are not), "batch" (its last hooks are done, its log row
            is not), "validation", "epoch_end" (the epoch's last hooks), "epoch" (they are done, its metrics are not),
            or "".
        loaded_at_epoch: the epoch for which the training dataloader was asked for.
    """

    source: TrainSource | None

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self.epoch = self.batches_done = self.batches_seen = self.batches_that_stepped = 0
        self.batch_idx = self.validated_at = self.loaded_at_epoch = -1
        self.window_from = 0
        self.left_out: frozenset[int] = frozenset()
        self.is_last_batch = self.epoch_started = self.epoch_skipped = self.window_ends = self.stepped = False
        self.pending = ""

    @property
    def epoch_progress(self) -> Progress:
        """Epochs begun and done."""
        counts = Counts(self.epoch + self.epoch_started, self.epoch)
        return Progress(counts, counts)

    @property
    def batch_progress(self) -> Progress:
        """Training batches begun and done, in the run and in this epoch."""
        running = self.batch_idx == self.batches_done
        total, current = self.batches_seen, self.batches_done
        return Progress(Counts(total + running, total), Counts(current + running, current))

    def begin_anew(self) -> None:
        """Forget an epoch that an earlier fit left unfinished."""
        self.batches_done, self.batch_idx, self.pending = 0, -1, ""
        self.is_last_batch = self.epoch_started = self.epoch_skipped = self.window_ends = False
        self.window_from, self.left_out = 0, frozenset()
        self.forget_calls()

    @property
    def num_batches(self) -> int | float:
        """Training batches in an epoch; ``math.inf`` when unknown, 0 before the dataloader is there."""
        return 0 if self.source is None else self.source.num_batches

    @property
    def batches_in_window(self) -> int:
        """Batches that the running accumulation window has by now; 0 where the next one begins."""
        done = self.batches_done + (self.pending == "batch_end")
        return 0 if self.is_last_batch else (done - self.window_from) % self._trainer.accumulate_grad_batches

    @property
    def steps_taken(self) -> int:
        """Optimizer steps of the run: ``trainer.global_step``."""
        return self._trainer.engine.steps

    def batches_until(self, step: int) -> int:
        """Return how many batches of the epoch are done, at the earliest, when so many optimizer steps are taken.

        Under manual optimisation, where a batch takes any number of steps, one more than by now.
        """
        done = self.batches_done + (self.pending == "batch_end")
        missing, num_batches = step - self._trainer.engine.steps, self.num_batches
        if missing <= 0:
            return done
        if not self._trainer.lightning_module.automatic_optimization:
            return done + 1
        batches = done - self.batches_in_window + missing * self._trainer.accumulate_grad_batches
        return batches if batches < num_batches else int(num_batches)  # whose window may be a short one

    def accumulate(self, batches: int) -> None:
        """Let accumulation windows have so many batches from the next batch on, with which one has to begin."""
        if batches != self._trainer.accumulate_grad_batches:
            self._trainer.accumulate_grad_batches = batches
            self.window_from = self.batches_done
            self.time_calls_anew()

    @contextmanager
    def as_of(self, epoch: int) -> Iterator[None]:
        """Ask for dataloaders as in that epoch: a run that goes on gets, and reloads, what it would have."""
        now, self.epoch = self.epoch, epoch
        try:
            yield
        finally:
            self.epoch = now
