"""What one training batch does under automatic optimisation: the step, the gradients, the optimizer."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException
from leyden.loops.steps import leaving_out, training_step_of
from leyden.loops.training_outputs import check_loss, loss_in, outputs_with
from leyden.runtime.engine import needs_closure
from leyden.runtime.wrapped_optimizer import LightningOptimizer

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["AutomaticOptimization"]


class AutomaticOptimization:
    """Runs ``training_step`` and, where an accumulation window ends, the optimizer.

    The loss is divided by `accumulate_grad_batches`, also in an epoch's last window when that is shorter.

    Attributes:
        window_open: whether the current accumulation window holds gradients that no step has used yet.
        outputs: the step's outputs for `on_train_batch_end`: ``loss`` (detached, divided by the accumulation factor)
            and extras.
    """

    keeps_gradients = False

    __slots__ = (
        "_averages_loss",
        "_backward",
        "_detect_anomaly",
        "_engine",
        "_journal",
        "_module",
        "_module_step",
        "_module_zero_grad",
        "_no_grad_sync",
        "_optimizer",
        "_optimizer_step",
        "_plan",
        "_shares_gradients",
        "_step",
        "_trainer",
        "_walks_gradients",
        "_whole_step",
        "_wrapped",
        "outputs",
        "window_open",
    )  # fmt: skip

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._plan, self._journal, self._engine = trainer, trainer.plan, trainer.journal, trainer.engine
        self._module = module = trainer.lightning_module
        self._step = self._whole_step = training_step_of(trainer)
        self._backward, self._optimizer_step = trainer.engine.backward, trainer.engine.step
        self._optimizer, self._wrapped = _only_optimizer(trainer)
        overridden = trainer.module_overrides
        closure_needed = self._optimizer is not None and needs_closure(self._optimizer)
        self._averages_loss = closure_needed and trainer.world_size > 1
        if closure_needed and trainer.accumulate_grad_batches > 1:
            raise _window_is_gone(trainer)
        # With a closure the optimizer calls us back, which costs 6 us a step: only where somebody asks for it.
        self._module_step = module.optimizer_step if overridden("optimizer_step") or closure_needed else None
        self._module_zero_grad = module.optimizer_zero_grad if overridden("optimizer_zero_grad") else None
        optimizer = self._optimizer
        # Optimizer.zero_grad opens a profiler record; clearing inline does the same without, unless a subclass has its
        # own.
        self._walks_gradients = (
            optimizer is not None and getattr(optimizer.zero_grad, "__func__", None) is Optimizer.zero_grad
        )
        self._no_grad_sync = trainer.strategy.no_grad_sync
        self._shares_gradients = trainer.world_size > 1 or self._no_grad_sync is not None
        self._detect_anomaly = trainer.settings.detect_anomaly
        if trainer.profiler is not None:
            self._wrap_actions(trainer.profiler)
        self.window_open = False
        self.outputs: dict[str, Any] = {}

    def _wrap_actions(self, profiler: Any) -> None:
        self._backward = profiler.wrap_action("backward", self._backward)
        self._optimizer_step = profiler.wrap_action("optimizer_step", self._optimizer_step)
        if self._module_step is not None:
            self._module_step = profiler.wrap_action("optimizer_step", self._module_step)

    def leave_out(self, batches: Collection[int]) -> None:
        """Let batches of these indices, and no others, be as if their ``training_step`` returned None."""
        self._step = leaving_out(self._whole_step, batches)

    def run(self, batch: Any, batch_idx: int, *, window_ends: bool) -> bool:
        """Train on one batch; return whether an optimizer step was taken.

        Args:
            window_ends: whether the accumulation window ends with this batch.
        """
        if not window_ends:
            if self._no_grad_sync is None:
                self._compute(batch, batch_idx)
            else:
                with self._no_grad_sync():
                    self._compute(batch, batch_idx)
            return False
        if self._module_step is not None:
            return self._run_with_closure(batch, batch_idx)
        self._compute(batch, batch_idx)
        if not self.window_open:  # every step of the window returned None: there is nothing to step with
            return False
        self.window_open = False
        if self._optimizer is not None:
            self._optimizer_step(self._optimizer)
        else:
            self._engine.steps += 1
        return not self._engine.skipped

    def _run_with_closure(self, batch: Any, batch_idx: int) -> bool:
        """Let the module's `optimizer_step`, or an optimizer that needs a closure, call the step."""
        assert self._module_step is not None
        engine, journal, called = self._engine, self._journal, False

        def closure() -> Tensor | None:
            nonlocal called
            if called:  # LBFGS evaluates the closure several times: each evaluation starts from cleared gradients
                if self._trainer.accumulate_grad_batches > 1:
                    raise _window_is_gone(self._trainer)
                self.window_open = False
            called = True
            outer = journal.hook
            loss = self._compute(batch, batch_idx)
            journal.hook = outer
            engine.idle = not self.window_open
            if self._averages_loss and loss is not None:  # LBFGS decides by it, and all processes have to decide alike
                return self._trainer.strategy.reduce(loss.detach())  # type: ignore[no-any-return]
            return loss

        engine.counts = engine.skipped = False
        journal.hook = "optimizer_step"
        try:
            self._module_step(self._trainer.fit_loop.epoch, batch_idx, self._wrapped, closure)
        finally:
            engine.counts = True
        if not called:
            raise MisconfigurationException(
                f"{type(self._module).__name__}.optimizer_step returned without calling its optimizer_closure, so no "
                "gradient was computed; call optimizer.step(closure=optimizer_closure), or optimizer_closure() when "
                "you skip the step."
            )
        stepped = self.window_open and not engine.skipped
        engine.idle = self.window_open = False
        # One call is one step, as without an override: also where it stepped the bare optimizer, or chose not to.
        engine.steps += stepped
        return stepped

    def _compute(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Run the step and its backward; return the loss that was differentiated, None where the batch is skipped."""
        self._journal.hook = "training_step"
        output = self._step(batch, batch_idx)
        loss = output if output.__class__ is Tensor else loss_in(output, self._module)
        if loss is None:
            self.outputs = {}
            if self._shares_gradients:
                self._trainer.strategy.left_out(self._module, self.window_open)
            return None
        factor = self._trainer.accumulate_grad_batches
        if factor != 1:
            loss = loss / factor
        # Not grad_fn: asking for it builds a Python object for the graph node, 1 % of a small step.
        if not loss.requires_grad or loss.ndim or self._detect_anomaly:
            check_loss(loss, self._module, batch_idx, detect_anomaly=self._detect_anomaly)
        if self._plan.on_train_batch_end is not None or self._plan.wants_train_outputs:
            detached = loss.detach()
            self.outputs = {"loss": detached} if output.__class__ is Tensor else outputs_with(detached, output)
        if not self.window_open:
            if self._optimizer is not None:
                self._zero_grad(batch_idx)
            self.window_open = True
        self._backward(loss)
        return loss

    def _zero_grad(self, batch_idx: int) -> None:
        optimizer = self._optimizer
        assert optimizer is not None
        if self._plan.on_before_zero_grad is not None:
            self._plan.on_before_zero_grad(optimizer)
        if self._module_zero_grad is not None:
            journal = self._journal
            outer, journal.hook = journal.hook, "optimizer_zero_grad"
            self._module_zero_grad(self._trainer.fit_loop.epoch, batch_idx, optimizer)
            journal.hook = outer
        elif self._walks_gradients:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        else:
            optimizer.zero_grad()


def _only_optimizer(trainer: Trainer) -> tuple[Optimizer | None, LightningOptimizer | None]:
    optimizers = trainer.optimizers
    if len(optimizers) > 1:
        raise MisconfigurationException(
            f"{type(trainer.lightning_module).__name__}.configure_optimizers returned {len(optimizers)} optimizers, "
            "but automatic optimisation drives one: set self.automatic_optimization = False in the module and step "
            "them in training_step."
        )
    return (optimizers[0], trainer.engine.optimizers[0]) if optimizers else (None, None)


def _window_is_gone(trainer: Trainer) -> MisconfigurationException:
    return MisconfigurationException(
        f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}): {type(trainer.optimizers[0]).__name__} "
        "evaluates the loss several times a step, each time for the whole window, whose earlier batches are gone; use "
        "larger batches instead."
    )
