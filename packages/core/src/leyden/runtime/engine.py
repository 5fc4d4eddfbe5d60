"""Backward, clipping and the optimizer's step, as precision and strategy want them and with their hooks around."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException
from leyden.overrides import is_overridden
from leyden.runtime.strategy import Strategy
from leyden.runtime.wrapped_optimizer import LightningOptimizer, note_step, unwrapped

if TYPE_CHECKING:
    from leyden.hooks.plan import Plan
    from leyden.logging.journal import Journal
    from leyden.module import LightningModule
    from leyden.runtime.precision import Precision
    from leyden.settings import Settings

__all__ = ["Engine", "needs_closure"]


class Engine:
    """Drives one module's gradients; `prepare` decides once what each step does.

    Attributes:
        steps: optimizer steps taken since the trainer was made, or restored: ``trainer.global_step``.
        counts: whether `step` counts; a module's ``optimizer_step`` is counted when it has returned.
        skipped: whether the gradient scaler left the last step out, because gradients were infinite.
        optimizers: the user's optimizers, wrapped so that ``step()`` runs precision and hooks.
        idle: set by the closure of a module's ``optimizer_step`` that found no gradient to step with (``training_step``
            returned None throughout the window): a wrapped optimizer then does nothing, which also keeps it from using
            the gradients of the step before again.
    """

    __slots__ = (
        "_backward", "_clip", "_journal", "_module", "_plan", "_precision", "_settings", "_strategy", "_unscaled",
        "counts", "idle", "optimizers", "skipped", "steps",
    )  # fmt: skip

    def __init__(
        self, plan: Plan, journal: Journal, precision: Precision, strategy: Strategy, settings: Settings
    ) -> None:
        self._plan, self._journal, self._settings = plan, journal, settings
        self._precision, self._strategy = precision, strategy
        self._module: LightningModule | None = None
        self._backward: Callable[..., None] = Tensor.backward
        self._clip = False
        self.optimizers: list[LightningOptimizer] = []
        self.steps = 0
        self.counts = True
        self.skipped = False
        self.idle = False
        self._unscaled: Optimizer | None = None

    def prepare(self, module: LightningModule, optimizers: list[Optimizer], overridden: Callable[[str], bool]) -> None:
        """Bind module and optimizers; `overridden` says whether the module has a hook of its own."""
        self._module = module
        self.idle, self.counts, self._unscaled = False, True, None  # an earlier fit may have been cut short
        self._backward = module.backward if overridden("backward") else Tensor.backward
        if not module.automatic_optimization and is_overridden("before_backward", self._strategy, Strategy):
            self._backward = _both(self._strategy.before_backward, self._backward)
        automatic_clip = module.automatic_optimization and self._settings.gradient_clip_val is not None
        self._clip = automatic_clip or (module.automatic_optimization and overridden("configure_gradient_clipping"))
        self.optimizers = [LightningOptimizer(optimizer, self) for optimizer in optimizers]

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run ``loss.backward()``, scaled where the precision scales, between its two hooks."""
        if self._precision.scaler is not None:
            loss = self._precision.scaler.scale(loss)
        plan = self._plan
        if plan.on_before_backward is not None:
            plan.on_before_backward(loss)
        journal = self._journal
        outer, journal.hook = journal.hook, "backward"
        self._backward(loss, *args, **kwargs)
        journal.hook = outer
        if plan.on_after_backward is not None:
            plan.on_after_backward()

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Take a step: closure if given, unscale, `on_before_optimizer_step`, clipping, ``optimizer.step``."""
        scaler = self._precision.scaler
        result = None
        if scaler is not None:
            if closure is not None:
                if needs_closure(optimizer):
                    raise MisconfigurationException(
                        f"{type(optimizer).__name__} evaluates its closure several times a step, which the gradient "
                        "scaler of precision='16-mixed' cannot follow; use precision='bf16-mixed' or another optimizer."
                    )
                result = closure()
                if self.idle:
                    return result
            if not self._scaled_step(scaler, optimizer, kwargs):
                return result
        elif closure is None:
            if self._clip or self._plan.on_before_optimizer_step is not None:
                self._before_step(optimizer)
            result = optimizer.step(**kwargs)
        else:
            given = closure

            def with_hooks() -> Any:
                value = given()
                if self.idle:
                    raise _NothingToStepError
                self._before_step(optimizer)
                return value

            try:
                result = optimizer.step(closure=with_hooks, **kwargs)
            except _NothingToStepError:
                return None
        self.steps += self.counts
        return result

    def _scaled_step(self, scaler: torch.amp.GradScaler, optimizer: Optimizer, kwargs: dict[str, Any]) -> bool:
        """Step with the scaler; return False where it leaves the step out, because gradients were infinite."""
        self.skipped = False
        if all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
            # The scaler refuses what has no gradients at all, as one of several optimizers may: step as without it.
            self._before_step(optimizer)
            optimizer.step(**kwargs)
            return True
        scaler.unscale_(optimizer)
        self._unscaled = optimizer
        self._before_step(optimizer)
        self._unscaled = None
        scale = scaler.get_scale()
        scaler.step(optimizer, **kwargs)
        scaler.update()
        self.skipped = scaler.get_scale() < scale
        if self.skipped:
            note_step(optimizer)
        return not self.skipped

    def _before_step(self, optimizer: Optimizer) -> None:
        if self._plan.on_before_optimizer_step is not None:
            self._plan.on_before_optimizer_step(optimizer)
        if self._clip:
            assert self._module is not None
            journal, settings = self._journal, self._settings
            outer, journal.hook = journal.hook, "configure_gradient_clipping"
            self._module.configure_gradient_clipping(
                optimizer,
                gradient_clip_val=settings.gradient_clip_val,
                gradient_clip_algorithm=settings.gradient_clip_algorithm,
            )
            journal.hook = outer

    def clip_gradients(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the optimizer's gradients in place, by total norm ("norm", the default) or each value ("value").

        Gradients that the precision has scaled stay so until the step unscales them, and are held to a scaled limit.
        """
        settings = self._settings
        value = settings.gradient_clip_val if gradient_clip_val is None else gradient_clip_val
        algorithm = gradient_clip_algorithm or settings.gradient_clip_algorithm or "norm"
        if algorithm not in ("norm", "value"):
            raise MisconfigurationException(
                f"clip_gradients(gradient_clip_algorithm={algorithm!r}): expected 'norm' or 'value'."
            )
        if not value:
            return
        limit, scaler = float(value), self._precision.scaler
        scaled = scaler is not None and self._unscaled is not unwrapped(optimizer)
        if scaler is not None and scaled:
            limit *= scaler.get_scale()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if algorithm == "norm":
            self._strategy.clip_grad_norm(parameters, limit)
        elif parameters:  # torch cannot clip the values of nothing
            if scaled:  # a gradient that overflowed must not look whole: the scaler leaves such a step out
                for parameter in parameters:
                    assert parameter.grad is not None
                    parameter.grad.nan_to_num_(nan=math.nan, posinf=math.nan, neginf=math.nan)
            torch.nn.utils.clip_grad_value_(parameters, limit)


def _both(first: Callable[[Tensor], None], then: Callable[..., None]) -> Callable[..., None]:
    def run(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        first(loss)
        then(loss, *args, **kwargs)

    return run


class _NothingToStepError(Exception):
    """Leaves an optimizer from within its closure, before it does anything."""


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` cannot be called without a closure (LBFGS)."""
    import inspect

    parameter = inspect.signature(type(optimizer).step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty
