"""How a step is called: the arguments its signature asks for and the context it runs in, decided once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from leyden.errors import MisconfigurationException

__all__ = ["step_arguments", "under_context"]


def step_arguments(
    step: Callable[..., Any], module: object, name: str, *, several_loaders: bool = False
) -> Callable[..., Any]:
    """Return `step` callable with ``(batch, batch_idx)``, and with several loaders ``dataloader_idx`` after them.

    A step may take fewer arguments than are passed: the batch alone, or the batch and one of the indices by name.

    Raises:
        MisconfigurationException: the signature fits none of these.
    """
    parameters = list(inspect.signature(step).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    passed = ("batch", "batch_idx", "dataloader_idx") if several_loaders else ("batch", "batch_idx")
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return step
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    where = f"{type(module).__name__}.{name}({', '.join(map(str, parameters))})"
    keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not positional or keyword_only:
        raise MisconfigurationException(
            f"{where}: expected ({', '.join(passed)}); it is called with these in that order."
        )
    names = [p.name for p in positional]
    if several_loaders and len(positional) < 3 and "dataloader_idx" not in names:
        raise MisconfigurationException(
            f"{where} takes no dataloader_idx, but there are several dataloaders; write def {name}(self, batch, "
            "batch_idx, dataloader_idx=0)."
        )
    if len(required) <= len(passed) <= len(positional):
        return step
    if len(required) > len(passed):
        if len(required) == 3 and required[2].name == "dataloader_idx":  # written for several loaders, run with one
            return lambda batch, batch_idx: step(batch, batch_idx, 0)
        raise MisconfigurationException(
            f"{where} requires {len(required)} arguments; it is called with ({', '.join(passed)})."
        )
    wanted = [passed.index(p.name) if p.name in passed else index for index, p in enumerate(positional)]
    return functools.partial(_pick, step, tuple(wanted))


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


def _pick(step: Callable[..., Any], wanted: tuple[int, ...], *args: Any) -> Any:
    return step(*[args[index] for index in wanted])
