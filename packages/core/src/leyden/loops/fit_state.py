"""What it takes to go on with a fit: its counters, data, random numbers and gradients, put away and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leyden.loops.boundaries import Boundary
from leyden.loops.ended_batch import EndedBatch
from leyden.loops.fit_progress import FitProgress
from leyden.loops.marks import Marks
from leyden.runtime.shards import own_gradients
from leyden.state.rng import collect_rng, restore_rng

if TYPE_CHECKING:
    from leyden.loops.evaluation import EvaluationLoop
    from leyden.loops.lookahead import LookAhead
    from leyden.loops.manual import ManualOptimization
    from leyden.loops.optimization import AutomaticOptimization
    from leyden.trainer import Trainer

__all__ = ["FitState"]

_KEPT = (
    "epoch", "batches_done", "batches_seen", "batches_that_stepped", "validated_at", "is_last_batch", "epoch_started",
    "epoch_skipped", "window_ends", "stepped", "pending", "loaded_at_epoch",
)  # fmt: skip


class FitState(FitProgress):
    """A fit that can be put away between any two hooks, and gone on with.

    Attributes:
        underway: whether training has begun, or gone on: `on_train_start` is behind it.
        marks: where a run that goes on begins when an exception cuts this one.
    """

    val_loop: EvaluationLoop
    _optimization: AutomaticOptimization | ManualOptimization | None

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.marks = Marks(trainer)
        self.underway = self._saves_exceptions = False
        self._resumed: Mapping[str, Any] = {}  # what a checkpoint had, until it is put back
        self._ahead: LookAhead | None = None
        self._opened: dict[str, Any] | None = None  # random numbers and draws before the epoch's batches were opened
        self._short: Boundary | None = None

    def begin_anew(self) -> None:
        """Forget an epoch that an earlier fit left unfinished, and what is to be gone on with."""
        super().begin_anew()
        self._resumed, self._short, self._ahead, self._opened = {}, None, None, None
        self.underway = False
        self.marks.forget()

    @property
    def resumes(self) -> bool:
        """Whether a checkpoint was loaded from which nothing has been done yet."""
        return bool(self._resumed)

    @property
    def in_batch(self) -> bool:
        """Whether a batch has been read that is not done yet: an exception may have cut it anywhere."""
        if self.pending == "validation":
            return self.val_loop.in_batch
        return not self.pending and self.batch_idx == self.batches_done

    def await_last_batch(self) -> None:
        """Wait until all processes have read their last batch, as this one has, and is to give it out."""
        self._trainer.strategy.await_end_of_batches(self.batches_seen + 1, self.batches_done + 1)

    def has_more(self, batches: int) -> bool:
        """Whether the epoch goes on behind so many batches of the run; asked in another thread, of other processes.

        The answer is no as long as that is not known.
        """
        ahead, done, at_hand = self._ahead, self.batches_seen, self.batch_idx >= self.batches_done
        if ahead is not None and done + at_hand == batches:
            return not ahead.exhausted
        return done + at_hand > batches

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
        unread = self._unread
        state["place"] = self._place()
        state["val_loaded_at_epoch"] = self.val_loop.loaded_at_epoch
        state["draws"] = self._draws() if unread is None else unread["draws"]
        return state

    def _note_draws(self) -> None:
        """Note what decides the draws of the batches that are opened now: once an epoch, not before each of them."""
        self._opened = None if self.batches_done else {"rng": collect_rng(), "draws": self._draws()}

    @property
    def _unread(self) -> dict[str, Any] | None:
        """What decided the draws of an epoch of which no batch is done: a run that goes on opens it anew."""
        return None if self.batches_done or self.pending else self._opened

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
        gradients = self._gradients()
        own = own_gradients(self._trainer.lightning_module, gradients)
        return {
            "global_step": self._trainer.engine.steps,
            "rng": collect_rng() if self._unread is None else self._unread["rng"],
            "metrics": self._trainer.journal.state_dict(),
            "gradients": gradients,
            **({"own_gradients": own} if own else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        for name in _KEPT:
            setattr(self, name, state[name])
        self.batch_idx = self.batches_done - 1
        self.window_from, self.left_out = state.get("window_from", 0), frozenset()
        self.val_loop.loaded_at_epoch = state.get("val_loaded_at_epoch", state["loaded_at_epoch"])
        self._resumed = {"place": state["place"], "draws": state.get("draws", ())}
        self._ahead, self._opened, self._short, self.underway = None, None, None, False
        progress = {name: value for name, value in state.items() if name not in ("cut_short", "ended")}
        self.marks.boundary = Boundary(None, progress, {})
        self.marks.ended = EndedBatch(**state["ended"]) if "ended" in state else None
        if "cut_short" in state:
            self._short = Boundary(**state["cut_short"])

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        """Take what `run_state` gave; random numbers and gradients are put back when the loop goes on."""
        given = {name: state[name] for name in ("rng", "metrics", "gradients", "own_gradients") if name in state}
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
            own = gradients if was_open else self._resumed.get("own_gradients", ())  # by hand, some may be averaged
            for parts, are_own in ((set(gradients).difference(own), False), (set(own), True)):
                those = {name: gradient for name, gradient in gradients.items() if name in parts}
                if those:
                    self._trainer.strategy.set_gradients(self._trainer.lightning_module, those, are_own)
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
        return self._trainer.strategy.gradients(self._trainer.lightning_module)

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
            ahead = self._ahead.rng if self._ahead is not None and read else None
            place = {"train": {**train, "batches": read, "ahead": ahead}}
        if self.pending == "validation":
            place["val"] = self.val_loop.state_dict()
        return place
