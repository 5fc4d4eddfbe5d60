"""What one training batch does: the step, the gradients, the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException
from leyden.loops.steps import step_arguments, under_context
from leyden.runtime.engine import Engine, LightningOptimizer, needs_closure

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["AutomaticOptimization", "ManualOptimization"]


class AutomaticOptimization:
    """Runs ``training_step`` and, where an accumulation window ends, the optimizer.

    Attributes:
        window_open: whether the current accumulation window holds gradients that no step has used yet.
        outputs: the step's outputs for `on_train_batch_end`: ``loss`` (detached, divided by the accumulation factor)
            and extras.
    """

    __slots__ = (
        "_detect_anomaly", "_engine", "_journal", "_module", "_module_step", "_module_zero_grad", "_no_grad_sync",
        "_optimizer", "_plan", "_step", "_trainer", "_walks_gradients", "_wrapped", "outputs", "window_open",
    )  # fmt: skip

    def __init__(self, trainer: Trainer) -> None:
        module = trainer.lightning_module
        self._trainer, self._module, self._plan = trainer, module, trainer.plan
        self._journal = trainer.journal
        self._engine: Engine | _ProfiledEngine = trainer.engine
        self._step = _training_step(trainer)
        self._optimizer, self._wrapped = _only_optimizer(trainer)
        overridden = trainer.module_overrides
        closure_needed = self._optimizer is not None and needs_closure(self._optimizer)
        if closure_needed and trainer.accumulate_grad_batches > 1:
            raise MisconfigurationException(
                f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}): {type(self._optimizer).__name__} "
                "evaluates the loss several "
                "times a step, each time for the whole window, whose earlier batches are gone; use larger batches "
                "instead."
            )
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
        self._detect_anomaly = trainer.settings.detect_anomaly
        if trainer.profiler is not None:
            self._wrap_actions(trainer.profiler)
        self.window_open = False
        self.outputs: dict[str, Any] = {}

    def _wrap_actions(self, profiler: Any) -> None:
        self._step = profiler.wrap_action("training_step", self._step)
        if self._wrapped is not None:
            self._engine = _ProfiledEngine(self._engine, profiler)

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
            self._engine.step(self._optimizer)
            return True
        self._engine.steps += 1
        return True

    def _run_with_closure(self, batch: Any, batch_idx: int) -> bool:
        assert self._module_step is not None
        called = False

        def closure() -> Tensor | None:
            nonlocal called
            # LBFGS evaluates the closure several times: each evaluation starts from cleared gradients.
            if called:
                self.window_open = False
            called = True
            return self._compute(batch, batch_idx)

        steps_before = self._engine.steps
        self._journal.hook = "optimizer_step"
        self._module_step(self._trainer.fit_loop.epoch, batch_idx, self._wrapped, closure)
        if not called:
            raise MisconfigurationException(
                f"{type(self._module).__name__}.optimizer_step returned without calling its optimizer_closure, so no "
                "gradient was computed; "
                "call optimizer.step(closure=optimizer_closure), or optimizer_closure() when you skip the step."
            )
        self.window_open = False
        return self._engine.steps > steps_before

    def _compute(self, batch: Any, batch_idx: int) -> Tensor | None:
        """Run the step and its backward; return the loss that was differentiated, None where the batch is skipped."""
        self._journal.hook = "training_step"
        output = self._step(batch, batch_idx)
        loss = output if isinstance(output, Tensor) else self._loss_in(output)
        if loss is None:
            self.outputs = {}
            return None
        factor = self._trainer.accumulate_grad_batches
        if factor != 1:
            loss = loss / factor
        if loss.grad_fn is None or loss.ndim or self._detect_anomaly:
            self._check_loss(loss, batch_idx)
        if self._plan.on_train_batch_end is not None or self._plan.wants_train_outputs:
            detached = loss.detach()
            self.outputs = {"loss": detached} if output.__class__ is Tensor else _detach_extras(output, detached)
        if not self.window_open:
            if self._optimizer is not None:
                self._zero_grad(batch_idx)
            self.window_open = True
        self._engine.backward(loss)
        return loss

    def _zero_grad(self, batch_idx: int) -> None:
        optimizer = self._optimizer
        assert optimizer is not None
        if self._plan.on_before_zero_grad is not None:
            self._plan.on_before_zero_grad(optimizer)
        if self._module_zero_grad is not None:
            self._journal.hook = "optimizer_zero_grad"
            self._module_zero_grad(self._trainer.fit_loop.epoch, batch_idx, optimizer)
        elif self._walks_gradients:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        else:
            optimizer.zero_grad()

    def _loss_in(self, output: Any) -> Tensor | None:
        if output is None:
            return None
        name = f"{type(self._module).__name__}.training_step"
        if not isinstance(output, Mapping):
            raise MisconfigurationException(
                f"{name} returned {output!r:.80} ({type(output).__name__}); expected the loss as a tensor, a dict with "
                "the key 'loss', "
                "or None to skip the batch."
            )
        loss = output.get("loss")
        if not isinstance(loss, Tensor):
            seen = (
                f"its 'loss' is a {type(loss).__name__}"
                if "loss" in output
                else f"its keys are {sorted(map(str, output))}"
            )
            raise MisconfigurationException(
                f"{name} returned a dict without a loss tensor ({seen}); put the loss under the key 'loss'."
            )
        return loss

    def _check_loss(self, loss: Tensor, batch_idx: int) -> None:
        name = f"{type(self._module).__name__}.training_step"
        if loss.ndim and loss.numel() != 1:
            raise MisconfigurationException(
                f"{name} returned a loss of shape {tuple(loss.shape)} at batch {batch_idx}; expected one number: "
                "reduce it, e.g. loss.mean()."
            )
        if not loss.requires_grad:
            raise MisconfigurationException(
                f"{name} returned a loss without a gradient at batch {batch_idx}. Was it detached, computed under "
                "torch.no_grad(), or is every "
                "parameter frozen? Return the loss as it came from the model, or set automatic_optimization = False."
            )
        if self._detect_anomaly and not torch.isfinite(loss).all():
            raise MisconfigurationException(
                f"{name} returned the loss {loss.item()} at batch {batch_idx} (detect_anomaly=True); look at that "
                "batch and at what the "
                "previous steps did: learning rate, logarithms and divisions."
            )


class ManualOptimization:
    """Runs ``training_step``, which drives optimizers itself."""

    __slots__ = ("_engine", "_journal", "_module", "_plan", "_step", "outputs", "window_open")

    def __init__(self, trainer: Trainer) -> None:
        self._journal, self._engine, self._plan = trainer.journal, trainer.engine, trainer.plan
        self._module = trainer.lightning_module
        self._step = _training_step(trainer)
        if trainer.profiler is not None:
            self._step = trainer.profiler.wrap_action("training_step", self._step)
        self.window_open = False
        self.outputs: dict[str, Any] = {}

    def run(self, batch: Any, batch_idx: int, *, window_ends: bool) -> bool:
        """Train on one batch; return whether any optimizer was stepped."""
        before = self._engine.steps
        self._journal.hook = "training_step"
        output = self._step(batch, batch_idx)
        if output is None:
            self.outputs = {}
        elif isinstance(output, Tensor):
            self.outputs = {"loss": output.detach()}
        elif isinstance(output, Mapping):
            self.outputs = {
                key: value.detach() if isinstance(value, Tensor) else value for key, value in output.items()
            }
        else:
            raise MisconfigurationException(
                f"{type(self._module).__name__}.training_step returned {output!r:.80} ({type(output).__name__}); under "
                "manual optimisation "
                "expected a tensor, a dict or None."
            )
        return self._engine.steps > before


class _ProfiledEngine:
    """The engine with its two actions timed; made only where a profiler is on."""

    def __init__(self, engine: Any, profiler: Any) -> None:
        self._engine = engine
        self.backward = profiler.wrap_action("backward", engine.backward)
        self.step = profiler.wrap_action("optimizer_step", engine.step)

    @property
    def steps(self) -> int:
        return int(self._engine.steps)

    @steps.setter
    def steps(self, value: int) -> None:
        self._engine.steps = value


def _training_step(trainer: Trainer) -> Callable[..., Any]:
    module = trainer.lightning_module
    step = trainer.strategy.step_of(module, "training_step")
    return under_context(step_arguments(step, module, "training_step"), trainer.precision_plugin.forward_context)


def _only_optimizer(trainer: Trainer) -> tuple[Optimizer | None, LightningOptimizer | None]:
    optimizers = trainer.optimizers
    if len(optimizers) > 1:
        raise MisconfigurationException(
            f"{type(trainer.lightning_module).__name__}.configure_optimizers returned {len(optimizers)} optimizers, "
            "but automatic "
            "optimisation drives one: set self.automatic_optimization = False in the module and step them in "
            "training_step."
        )
    return (optimizers[0], trainer.engine.optimizers[0]) if optimizers else (None, None)


def _detach_extras(output: Any, loss: Tensor) -> dict[str, Any]:
    if isinstance(output, Tensor):  # a subclass of Tensor
        return {"loss": loss}
    extras = {key: value.detach() if isinstance(value, Tensor) else value for key, value in output.items()}
    extras["loss"] = loss
    return extras
