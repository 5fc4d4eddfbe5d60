"""Optimizers as a module meets them: the user's own, but for a step that runs precision and hooks, and counts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from leyden.runtime.engine import Engine

__all__ = ["LightningOptimizer", "note_step", "unwrapped"]

_OWN = ("_optimizer", "_engine", "step")


class LightningOptimizer:
    """An optimizer as manual optimisation sees it: ``step()`` also runs precision and hooks, and counts.

    Everything else is the wrapped optimizer's: attributes are read and set there, and ``isinstance`` says what it says
    of that one, so that schedulers and scalers of torch take it. A deep copy or a pickle of it is one of the wrapped
    optimizer, which belongs to no trainer.
    """

    def __init__(self, optimizer: Optimizer, engine: Engine) -> None:
        self._optimizer = optimizer
        self._engine = engine

    @property  # type: ignore[misc]  # mypy wants it writable
    def __class__(self) -> type:
        """The class of the wrapped optimizer; ``type()`` tells the truth."""
        return type(self._optimizer)

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer itself."""
        return self._optimizer

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Take a step; a closure is run with gradients on, as ``torch.optim.Optimizer.step`` would."""
        if closure is not None and not callable(closure):
            raise MisconfigurationException(f"optimizer.step(closure={closure!r}): expected a callable or None.")
        if self._engine.idle:
            return None
        return self._engine.step(self._optimizer, closure, **kwargs)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self._optimizer.zero_grad(set_to_none=set_to_none)

    @contextlib.contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Let only this optimizer's parameters require gradients; `sync_grad` as in several processes' backward."""
        module, strategy = self._engine._module, self._engine._strategy
        assert module is not None
        hold = contextlib.nullcontext() if sync_grad or strategy.no_grad_sync is None else strategy.no_grad_sync()
        with hold, module.toggled_optimizer(self):
            yield

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in _OWN:  # copying looks for these before the optimizer is set
            raise AttributeError(name)
        return getattr(self._optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OWN:
            setattr(self._optimizer, name, value)
            return
        if name == "step" and hasattr(value, "_wrapped_by_lr_sched"):
            _note_steps(self._optimizer)  # automatic optimisation steps that one, and the scheduler asks whether it did
        object.__setattr__(self, name, value)

    def __copy__(self) -> LightningOptimizer:
        return LightningOptimizer(self._optimizer, self._engine)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._optimizer,)

    def __repr__(self) -> str:
        return f"LightningOptimizer({self._optimizer!r})"


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer in a wrapper, anything else as it is."""
    return optimizer.optimizer if type(optimizer) is LightningOptimizer else optimizer


def _itself(optimizer: Optimizer) -> Optimizer:
    return optimizer


def note_step(optimizer: Any) -> None:
    """Let torch's schedulers, which warn of being stepped first, know that it is the turn of those of `optimizer`.

    Its own step tells them. This is for one that was taken in the run that is gone on with, or that a scaler left out.
    """
    optimizer._opt_called = True


def _note_steps(optimizer: Any) -> None:
    """Let `optimizer` note that it was stepped, as torch's schedulers do with one that they are made with."""
    step = optimizer.step
    if hasattr(step, "_wrapped_by_lr_sched"):
        return

    def noting(*args: Any, **kwargs: Any) -> Any:
        optimizer._opt_called = True
        return step(*args, **kwargs)

    noting._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = noting
