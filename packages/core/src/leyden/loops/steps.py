"""How a step is called: the arguments its signature asks for and the context it runs in, decided once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["leaving_out", "step_arguments", "training_step_of", "under_context"]

_ARGUMENTS = ("batch", "batch_idx", "dataloader_idx")


def training_step_of(trainer: Trainer, *, backward: bool = True) -> Callable[..., Any]:
    """Return the module's ``training_step`` as strategy, precision and profiler run it, before a `backward` or not."""
    module, strategy = trainer.lightning_module, trainer.strategy
    own = (strategy.step_of if backward else strategy.step_without_backward)(module, "training_step")
    step = step_arguments(own, module, "training_step")
    step = under_context(step, trainer.precision_plugin.forward_context)
    return step if trainer.profiler is None else trainer.profiler.wrap_action("training_step", step)


def leaving_out(step: Callable[..., Any], batches: Collection[int]) -> Callable[..., Any]:
    """Return `step` as it is where there are no `batches`; else one that returns None for those of these indices."""
    return (lambda batch, batch_idx: None if batch_idx in batches else step(batch, batch_idx)) if batches else step


def step_arguments(
    step: Callable[..., Any], module: object, name: str, *, several_loaders: bool = False
) -> Callable[..., Any]:
    """Return `step` callable with ``(batch, batch_idx)``, and with several loaders ``dataloader_idx`` after them.

    A step may take fewer arguments than are passed: the batch alone, or the batch and one of the indices by name. With
    one loader its `dataloader_idx` is 0.

    Raises:
        MisconfigurationException: the signature fits none of these.
    """
    signature = inspect.signature(step)
    parameters = list(signature.parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return step
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [p.name for p in positional]
    required = [p.name for p in positional if p.default is p.empty]
    passed = _ARGUMENTS if several_loaders else _ARGUMENTS[:2]
    if not several_loaders and names in (["batch"], ["batch", "batch_idx"]) and len(parameters) == len(names):
        return _fitted(step, names, len(required), several_loaders)  # as nearly every step: nothing to say of it
    where = f"{type(module).__name__}.{name}{signature.replace(return_annotation=signature.empty)}"
    if not positional or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise MisconfigurationException(
            f"{where}: expected ({', '.join(passed)}); it is called with these in that order."
        )
    if names[0] == "dataloader_iter":
        raise MisconfigurationException(
            f"{where}: a step is given one batch, not the iterator; write def {name}(self, batch, batch_idx)."
        )
    if several_loaders and len(positional) < len(_ARGUMENTS) and "dataloader_idx" not in names:
        raise MisconfigurationException(
            f"{where} takes no dataloader_idx, but there are several dataloaders; write def {name}(self, batch, "
            "batch_idx, dataloader_idx=0)."
        )
    if len(required) > len(passed) and required[2:] != ["dataloader_idx"]:
        raise MisconfigurationException(
            f"{where} requires {len(required)} arguments; it is called with ({', '.join(passed)})."
        )
    return _fitted(step, names, len(required), several_loaders)


def _fitted(step: Callable[..., Any], names: list[str], required: int, several_loaders: bool) -> Callable[..., Any]:
    if len(names) == 1:
        return lambda batch, *indices: step(batch)
    if len(names) == 2 and names[1] == "dataloader_idx":
        return lambda batch, batch_idx, dataloader_idx=0: step(batch, dataloader_idx)
    if required == len(_ARGUMENTS) and not several_loaders:  # written for several loaders, run with one
        return lambda batch, batch_idx: step(batch, batch_idx, 0)
    return step


def under_context(
    step: Callable[..., Any], context: Callable[[], AbstractContextManager[Any]] | None
) -> Callable[..., Any]:
    """Return `step` run within a fresh context each time; `step` itself where there is no context."""
    if context is None:
        return step

    def run(*args: Any) -> Any:
        with context():
            return step(*args)

    return run
