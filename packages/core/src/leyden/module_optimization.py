"""How a module's optimizers step: the defaults that a module may override, and what manual optimisation calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException
from leyden.module_attachment import AttachedModule

if TYPE_CHECKING:
    from leyden.runtime.wrapped_optimizer import LightningOptimizer

__all__ = ["OptimizationSteps"]


class OptimizationSteps(AttachedModule):
    """The steps of optimisation as methods of the module."""

    automatic_optimization = True
    changes_weights = False

    _toggled = None  # type: dict[nn.Parameter, bool] | None

    def configure_optimizers(self) -> Any:
        """Return the optimizers, with their schedulers when there are any.

        Forms: an optimizer; a list of them; a pair of lists (optimizers, schedulers); a dict with ``optimizer`` and, if
        wanted, ``lr_scheduler`` (a scheduler, or a dict with ``scheduler``, ``interval`` "epoch" | "step",
        ``frequency``, ``monitor``, ``strict``, ``name``); a list of such dicts; None to train without an optimizer.
        """
        name = type(self).__qualname__
        raise MisconfigurationException(
            f"{name} has no configure_optimizers, which trainer.fit needs. Define {name}.configure_optimizers and "
            "return an optimizer, or return None there to train without one."
        )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of `loss`, a scalar already divided by the accumulation factor."""
        loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take an optimizer step; the closure runs the training step and backward, and must be called by it or here."""
        optimizer.step(closure=optimizer_closure)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Free the gradients of the optimizer's parameters."""
        optimizer.zero_grad()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a scheduler; `metric` is the monitored value of one that needs it, else None."""
        if metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the optimizer's gradients as the Trainer's settings say, which come as arguments."""
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def clip_gradients(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the optimizer's gradients by "norm" (the default algorithm) or "value"; no value, no clipping."""
        self.trainer.engine.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute gradients under manual optimisation, with the precision's scaling and the hooks of backward.

        Raises:
            MisconfigurationException: the module optimises automatically; set ``self.automatic_optimization = False``.
        """
        if self.automatic_optimization:
            name = type(self).__qualname__
            raise MisconfigurationException(
                f"{name}.manual_backward was called while {name}.automatic_optimization is True, so that the trainer "
                f"would go backward a second time. Set self.automatic_optimization = False in {name}.__init__, or "
                "return the loss instead."
            )
        self.trainer.engine.backward(loss, *args, **kwargs)

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """Return the optimizer, or the list of them when there are several or none.

        They step with the precision's scaling and count in ``global_step``; with `use_pl_optimizer` False they do not.
        """
        trainer = self.trainer
        optimizers: list[LightningOptimizer] | list[Optimizer]
        optimizers = trainer.engine.optimizers if use_pl_optimizer else trainer.optimizers
        return optimizers[0] if len(optimizers) == 1 else optimizers

    def lr_schedulers(self) -> Any:
        """Return the scheduler, the list of them when there are several, or None."""
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return (schedulers[0] if len(schedulers) == 1 else schedulers) if schedulers else None

    def toggle_optimizer(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """Let only the parameters of `optimizer` require gradients, until `untoggle_optimizer`.

        Parameters that no optimizer has stay as they are, and so do those of `optimizer`: frozen ones stay frozen.
        """
        before = self._untoggle()
        own = _parameters(optimizer)
        for other in self.trainer.optimizers:
            for parameter in _parameters(other):
                if parameter.requires_grad and parameter not in own:
                    before[parameter] = True
                    parameter.requires_grad = False

    def untoggle_optimizer(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """Undo `toggle_optimizer`: every parameter requires gradients again as it did before."""
        self._untoggle()

    @contextlib.contextmanager
    def toggled_optimizer(self, optimizer: Optimizer | LightningOptimizer) -> Iterator[None]:
        """Toggle `optimizer` for the time of a ``with`` block, also when that raises."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    def _untoggle(self) -> dict[nn.Parameter, bool]:
        """Restore what is toggled and return the emptied record. Toggling twice thus never records a toggled state."""
        before = self._toggled
        if before is None:
            before = self.__dict__["_toggled"] = {}
        for parameter, requires_grad in before.items():
            parameter.requires_grad = requires_grad
        before.clear()
        return before


def _parameters(optimizer: Optimizer | LightningOptimizer) -> dict[nn.Parameter, None]:
    return {parameter: None for group in optimizer.param_groups for parameter in group["params"]}
