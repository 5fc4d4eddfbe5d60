"""How far a fit has come: its counters, what of a batch is still to be done, and what it takes to go on from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from leyden.loops.boundaries import Boundary
from leyden.loops.calls import EpochCalls
from leyden.loops.ended_batch import EndedBatch
from leyden.loops.marks import Marks
from leyden.loops.progress import Counts, Progress
from leyden.state.rng import collect_rng, restore_rng

if TYPE_CHECKING:
    from leyden.data.sources import TrainSource
    from leyden.loops.evaluation import EvaluationLoop
    from leyden.loops.lookahead import LookAhead
    from leyden.loops.manual import ManualOptimization
    from leyden.loops.optimization import AutomaticOptimization
    from leyden.trainer import Trainer

__all__ = ["FitProgress"]

_KEPT = (
    "epoch", "batches_done", "batches_seen", "batches_that_stepped", "validated_at", "is_last_batch", "epoch_started",
    "epoch_skipped", "window_ends", "stepped", "pending", "loaded_at_epoch",
)  # fmt: skip


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
        underway: whether training has begun, or gone on: `on_train_start` is behind it.
        loaded_at_epoch: the epoch for which the training dataloader was asked for.
    """

    source: TrainSource | None
    val_loop: EvaluationLoop
    _optimization: AutomaticOptimization | ManualOptimization | None

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self._trainer = trainer
        self.epoch = self.batches_done = self.batches_seen = self.batches_that_stepped = 0
        self.batch_idx = self.validated_at = self.loaded_at_epoch = -1
        self.window_from = 0
        self.left_out: frozenset[int] = frozenset()
        self.is_last_batch = self.epoch_started = self.epoch_skipped = self.window_ends = self.stepped = False
        self.pending = ""
        self._ahead: LookAhead | None = None
        self._resumed: Mapping[str, Any] = {}
        self.marks = Marks(trainer)
        self._short: Boundary | None = None
        self._saves_exceptions = self.underway = False

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
        self._resumed, self._short, self._ahead = {}, None, None
        self.window_from, self.left_out = 0, frozenset()
        self.underway = False
        self.marks.forget()
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

    @property
    def resumes(self) -> bool:
        """Whether a checkpoint was loaded from which nothing has been done yet."""
        return bool(self._resumed)

    @contextmanager
    def as_of(self, epoch: int) -> Iterator[None]:
        """Ask for dataloaders as in that epoch: a run that goes on gets, and reloads, what it would have."""
        now, self.epoch = self.epoch, epoch
        try:
            yield
        finally:
            self.epoch = now

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def in_batch(self) -> bool:
        """Whether a batch has been read that is not done yet: an exception may have cut it anywhere."""
        if self.pending == "validation":
            return self.val_loop.in_batch
        return not self.pending and self.batch_idx == self.batches_done

    @property
    def marks_boundaries(self) -> bool:
        """Whether the run is remembered before what an exception may cut, for a callback that saves then."""
        return self._saves_exceptions and self.underway

    @property
    def steps_met(self) -> int:
        """Optimizer steps that the hooks of a batch's end have met: all, but in a run that has yet to call them."""
        return self._trainer.engine.steps if self.marks.ended is None else self.marks.ended.steps

    @property
    def cut_at(self) -> Boundary | None:
        """Where a run that goes on from here begins, if that is before something that is not done yet."""
        boundary = self.marks.boundary
        return boundary if boundary is not None and self._is_next(boundary) else None

    def _is_next(self, boundary: Boundary) -> bool:
        """Whether nothing was done since `boundary`, be it that its batch was being read, which draws, or run."""
        progress = boundary.progress
        if boundary.begun == "batch":
            here = self.epoch, self.batches_seen, self.pending
            return here == (progress["epoch"], progress["batches_seen"], progress["pending"])
        if boundary.begun == "validation_batch":
            seen = progress["place"]["val"]["seen"]
            return self.val_loop.phase == "batches" and seen == self.val_loop.batches_seen
        if boundary.begun == "batch_end" and self._trainer.plan.on_train_batch_end is None:
            return self.pending in ("", "batch_end")
        return True

    def state_dict(self) -> dict[str, Any]:
        """Progress as plain data. A batch counts as done from its last hooks on; one that was cut is to be repeated."""
        boundary = self.cut_at
        state = self.live_state_dict() if boundary is None else dict(boundary.progress)
        if boundary is not None:
            self.marks.warn_of_changes()
        if state["pending"] == "batch_end":
            assert self.marks.ended is not None
            state["ended"] = self.marks.ended.as_dict()
        if self._short is not None:
            state["cut_short"] = self._short.as_dict()
        return state

    def live_state_dict(self) -> dict[str, Any]:
        """Progress as it stands, whatever an exception may have cut."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _KEPT}
        if self.in_batch and not self.pending:
            state.update(is_last_batch=False, window_ends=False, stepped=False)
        state["window_from"] = self.window_from
        state["place"] = self._place()
        state["val_loaded_at_epoch"] = self.val_loop.loaded_at_epoch
        state["draws"] = self._draws()
        return state

    def weights(self) -> dict[str, Any]:
        """The module's weights; buffers, such as running statistics, without what a batch that was cut did to them."""
        weights: dict[str, Any] = self._trainer.lightning_module.state_dict()
        if self.cut_at is not None:
            weights.update({name: weight for name, weight in self.cut_at.weights.items() if name in weights})
        return weights

    def run_state(self) -> dict[str, Any]:
        """What else it takes to go on: random numbers, running metrics, gradients of an unfinished window."""
        return self.live_run_state() if self.cut_at is None else dict(self.cut_at.run)

    def live_run_state(self) -> dict[str, Any]:
        """What `run_state` gives where no exception cut anything."""
        return {
            "global_step": self._trainer.engine.steps,
            "rng": collect_rng(),
            "metrics": self._trainer.journal.state_dict(),
            "gradients": self._gradients(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.batch_idx = self.batches_done - 1
        self.window_from, self.left_out = state.get("window_from", 0), frozenset()
        self.val_loop.loaded_at_epoch = state.get("val_loaded_at_epoch", state["loaded_at_epoch"])
        self._resumed = {"place": state["place"], "draws": state.get("draws", ())}
        self._ahead, self._short, self.underway = None, None, False
        progress = {name: value for name, value in state.items() if name not in ("cut_short", "ended")}
        self.marks.boundary = Boundary(None, progress, {})
        self.marks.ended = EndedBatch(**state["ended"]) if "ended" in state else None
        if "cut_short" in state:
            self._short = Boundary(**state["cut_short"])

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        """Take what `run_state` gave; random numbers and gradients are put back when the loop goes on."""
        given = {name: state[name] for name in ("rng", "metrics", "gradients") if name in state}
        self._resumed = {**self._resumed, **given}
        if self.marks.boundary is not None:
            self.marks.boundary.run = {**self.live_run_state(), **given}
        if "metrics" in given:
            self._trainer.journal.load_state_dict(given["metrics"])

    def _go_on(self) -> None:
        """Put back what hooks before the first batch may have touched."""
        gradients = self._resumed.get("gradients") or {}
        if gradients:
            assert self._optimization is not None
            ended = self.marks.ended
            was_open = not self._optimization.keeps_gradients if ended is None else ended.window_open
            self._optimization.window_open = was_open
            for name, parameter in self._trainer.lightning_module.named_parameters():
                if name in gradients:
                    parameter.grad = gradients[name].to(parameter.device, parameter.dtype)
        for source, states in zip((self.source, self.val_loop.source), self._resumed.get("draws", ()), strict=False):
            if source is not None:
                source.set_draws(states)
        if "metrics" in self._resumed:
            self._trainer.journal.load_state_dict(self._resumed["metrics"])
            self._trainer.journal.start("train")
        if "rng" in self._resumed:
            restore_rng(self._resumed["rng"])
        self.marks.boundary, self.underway = None, True
        if self.pending == "validation":
            self.val_loop.load_state_dict(self._resumed["place"]["val"])

    def _gradients(self) -> dict[str, Any]:
        """Gradients that a later step or hook will use; under manual optimisation only the module knows: all."""
        optimization = self._optimization
        used = optimization is not None and (optimization.window_open or optimization.keeps_gradients)
        if not (used or self.pending == "batch_end"):  # which hooks of the batch's end may look at
            return {}
        named = self._trainer.lightning_module.named_parameters()
        return {name: parameter.grad for name, parameter in named if parameter.grad is not None}

    def _draws(self) -> list[list[Any]]:
        """What dataloaders have of their own that decides their draws, for training and validation."""
        train, val = [[] if source is None else source.draws() for source in (self.source, self.val_loop.source)]
        read_ahead = None if self._ahead is None or self._ahead.exhausted else self._ahead.place
        return [train if read_ahead is None else read_ahead[1], val]

    def _place(self) -> dict[str, Any] | None:
        """Where the data stand that are being read."""
        if self.source is None or not self.epoch_started:
            return None
        if self._resumed.get("place") is not None:  # the batches that are left have not been opened yet
            place = {"train": self._resumed["place"]["train"]}
        else:
            read_ahead = None if self._ahead is None else self._ahead.place
            read = self.batches_done + (self.pending == "batch_end")
            train = self.source.state_dict(read) if read_ahead is None else read_ahead[0]
            ahead = self._ahead and self._ahead.rng
            place = {"train": {**train, "batches": read, "ahead": ahead}}
        if self.pending == "validation":
            place["val"] = self.val_loop.state_dict()
        return place
