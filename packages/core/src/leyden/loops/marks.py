"""Where a run that goes on begins when an exception cuts this one: marked as the run passes, and told of afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.nn import Parameter

from leyden.loops.boundaries import Begun, Boundary, boundary_of, changers
from leyden.loops.ended_batch import EndedBatch
from leyden.loops.optimization import AutomaticOptimization
from leyden.rank_zero import rank_zero_warn
from leyden.runtime.engine import needs_closure
from leyden.runtime.interrupts import HeldInterrupts

if TYPE_CHECKING:
    from leyden.loops.manual import ManualOptimization
    from leyden.trainer import Trainer

    Optimization = AutomaticOptimization | ManualOptimization

__all__ = ["Marks"]


class Marks:
    """The boundary a run has passed last. Nothing is marked, and no optimizer watched, unless a callback asks for it.

    An optimizer's step is watched from hooks of its own, which are there only then: an exception after it, within the
    same batch, leaves weights that the batch must not be repeated with. They are copied before the first step of the
    batch where a step may well fail half-way: under manual optimisation, in which the training step goes on after it,
    for an optimizer that calls the training step, and in a module that says `changes_weights`. Where they are not,
    Ctrl-C waits until the step is over.

    Attributes:
        boundary: the run as it was before what is being done; None where that will not be done again.
        ended: the batch whose last hooks are being called, or are to be called again.
    """

    __slots__ = ("_handles", "_interrupts", "_is_copied", "_stepped", "_trainer", "_watched", "boundary", "ended")

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.boundary: Boundary | None = None
        self.ended: EndedBatch | None = None
        self._watched: list[tuple[Parameter, int]] = []
        self._is_copied = self._stepped = False
        self._handles: list[Any] = []
        # Between the gradients of a batch and the boundary after its step there is no way back.
        step = [type(self).run_batch.__code__]
        self._interrupts = HeldInterrupts(step, [AutomaticOptimization._compute.__code__])

    def forget(self) -> None:
        """Another fit begins."""
        self.boundary = self.ended = None
        self._watched = []

    # -- on the way -------------------------------------------------------------------------------------------------

    def mark(self, begun: Begun) -> Boundary:
        """Remember the run as it is before `begun`, and return that."""
        if begun != "batch_end":
            self.ended = None
        boundary = self.boundary = boundary_of(self._trainer, begun)
        self._watched = [(one, one._version) for one in self._trainer.lightning_module.parameters()]
        self._is_copied = bool(changers(self._trainer, begun))
        self._stepped = False
        return boundary

    def mark_end(self, begun: Begun) -> None:
        """Remember the run as it is before the hooks of an end, until everyone has had them."""
        if self._trainer.fit_loop.marks_boundaries:
            self.mark(begun)
            self._trainer.plan.when_next_done(self.passed)

    def run_batch(self, optimization: Optimization, batch: Any, batch_idx: int, *, window_ends: bool) -> bool:
        """Train on one batch and remember the run after it; return whether an optimizer step was taken."""
        loop = self._trainer.fit_loop
        loop.stepped = optimization.run(batch, batch_idx, window_ends=window_ends)
        self.mark_batch_end(optimization, batch)
        self._interrupts.let_go()
        return loop.stepped

    def mark_batch_end(self, optimization: Optimization, batch: Any) -> None:
        """Remember the run after a batch's step, until what the step brings and the batch's last hooks are done."""
        loop, plan, boundary = self._trainer.fit_loop, self._trainer.plan, self.boundary
        if self.ended is not None:  # of a run that goes on from here
            before, steps, window_open = self.ended.before, self.ended.steps, self.ended.window_open
        else:
            assert boundary is not None
            place, draws = boundary.progress["place"]["train"], boundary.progress["draws"][0]
            before = {"train": place, "draws": draws, "rng": boundary.run["rng"]}
            steps, window_open = boundary.run["global_step"], optimization.window_open
        self.ended = EndedBatch(optimization.outputs, batch, before, steps, window_open)
        pending, loop.pending = loop.pending, "batch_end"
        self.ended.watch(self.mark("batch_end").run["gradients"])
        loop.pending = pending
        if plan.on_train_batch_end is not None:
            plan.when_next_done(self.passed)

    def keep_to_the_end(self) -> None:
        """Let the boundary of a validation's batch stand until everyone has had the batch's last hooks."""
        if self.boundary is not None and self.boundary.begun == "validation_batch":
            self.boundary.begun = "validation_batch_end"
            self._trainer.plan.when_next_done(self.passed)

    def passed(self) -> None:
        """What was begun is done: a run that goes on from here does not do it again."""
        self.boundary = self.ended = None

    def watch_steps(self) -> None:
        """Have every step of an optimizer noticed until `unwatch_steps`."""
        self.unwatch_steps()
        trainer, optimizers = self._trainer, self._trainer.optimizers
        module = trainer.lightning_module
        copies = not module.automatic_optimization or module.changes_weights
        if copies or any(needs_closure(optimizer) for optimizer in optimizers):
            self._handles = [one.register_step_pre_hook(self._about_to_step) for one in optimizers]
        elif module.automatic_optimization:
            self._interrupts.start()
        self._handles += [one.register_step_post_hook(self._has_stepped) for one in optimizers]

    def unwatch_steps(self) -> None:
        """Leave the optimizers, and Ctrl-C, as they were."""
        self._interrupts.stop()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Notice nothing of a trial, which steps optimizers and puts back what it changed."""
        watched, is_changed = bool(self._handles), self._is_changed
        self.unwatch_steps()
        try:
            yield
        finally:
            if not is_changed:
                self._watched = [(one, one._version) for one, _ in self._watched]
            if watched:
                self.watch_steps()

    def _about_to_step(self, *_: Any) -> None:
        boundary = self.boundary
        if boundary is not None and boundary.begun == "batch" and boundary.optimizer_states is None:
            self._is_copied = self._is_copied or not self._is_changed
            boundary.copy_before_step(self._trainer)

    def _has_stepped(self, *_: Any) -> None:
        boundary = self.boundary
        # Only before a batch is the optimizer's state copied; where it is not, fused steps leave no other trace.
        self._stepped = boundary is None or boundary.begun != "batch" or boundary.optimizer_states is None

    # -- when it was cut --------------------------------------------------------------------------------------------

    @property
    def _is_changed(self) -> bool:
        """Whether weights are others than at the boundary. What is written through ``.data`` leaves no trace."""
        now = list(self._trainer.lightning_module.parameters())
        return len(now) != len(self._watched) or any(
            one is not other or other._version != version
            for one, (other, version) in zip(now, self._watched, strict=True)
        )

    def warn_of_changes(self) -> None:
        """Say so where a run that goes on from the boundary has weights that are not those of then."""
        boundary = self.boundary
        if boundary is None or boundary.begun is None:
            return
        if self._stepped or (not self._is_copied and self._is_changed):
            module = type(self._trainer.lightning_module).__name__
            rank_zero_warn(
                f"a run that goes on from this checkpoint is not exact: it repeats {_WHAT[boundary.begun]}, which had "
                "changed weights by now, so that the change is made twice. Set `changes_weights = True` on the "
                f"callback whose hook changes them, or on {module} where its own hooks, its optimizer_step or a hook "
                "of an optimizer do: weights are then copied before."
            )
        if self.ended is not None and self.ended.is_changed:
            rank_zero_warn(
                "a run that goes on from this checkpoint is not exact: it calls on_train_batch_end again, in which "
                "outputs, batch or gradients had been changed in place by now. Let the hook change a copy."
            )


_WHAT: dict[Begun, str] = {
    "epoch": "the hooks of the epoch's start",
    "batch": "the batch",
    "batch_end": "on_train_batch_end",
    "batch_done": "what follows a batch's last hooks",
    "epoch_end": "the hooks of the epoch's end",
    "epoch_done": "what follows the epoch's last hooks",
    "validation": "the hooks of the validation's start",
    "validation_batch": "the validation batch",
    "validation_batch_end": "the validation batch",
    "validation_done": "the row of a validation's metrics",
    "validation_epoch_end": "on_validation_epoch_end",
    "validation_end": "on_validation_end",
}
