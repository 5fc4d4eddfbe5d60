"""The end of an entry point, good or bad: everyone is told and torn down, and the first error comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.hooks.plan import Entry

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["end_well", "note", "tear_down", "tell_of"]

_log = logging.getLogger("leyden")


def tell_of(trainer: Trainer, error: BaseException) -> None:
    """Tell callbacks, datamodule and loggers that the run is cut short by `error`; what they raise is noted on it."""
    calls: list[tuple[str, Callable[[], Any]]] = []
    if isinstance(error, KeyboardInterrupt):
        for entry in trainer.plan.entries("on_keyboard_interrupt"):
            calls.append((f"{type(entry.owner).__name__}.on_keyboard_interrupt", entry.call))
    for entry in trainer.plan.entries("on_exception"):
        calls.append((f"{type(entry.owner).__name__}.on_exception", partial(entry.call, error)))
    if trainer.datamodule is not None:
        datamodule = trainer.datamodule
        calls.append((f"{type(datamodule).__name__}.on_exception", partial(datamodule.on_exception, error)))
    for problem, where in _attempt([*calls, *_finalizing(trainer, "failed")]):
        note(error, problem, where)


def tear_down(trainer: Trainer, set_up: Sequence[Entry]) -> list[tuple[BaseException, str]]:
    """Call `teardown` for everyone whose setup ran, given as the calls of that time; return what it raised and where.

    Who left ``trainer.callbacks`` since then is reached too.
    """
    stage = str(trainer.state.fn)
    now = {id(entry.owner): entry for entry in trainer.plan.entries("teardown")}
    calls = [
        (f"teardown of {type(entry.owner).__name__}", partial(now.get(id(entry.owner), entry).call, stage))
        for entry in set_up
    ]
    problems = _attempt(calls)
    if problems:
        trainer.strategy.explain(problems[0][0])  # to the other processes
    return problems + _attempt([(f"teardown of {type(trainer.strategy).__name__}", trainer.strategy.teardown)])


def end_well(trainer: Trainer, set_up: Sequence[Entry]) -> None:
    """Tear everyone down and close the loggers; raise the first error of these, with the others noted on it."""
    problems = tear_down(trainer, set_up)
    problems += _attempt(_finalizing(trainer, "failed" if problems else "success"))
    if problems:
        first = problems[0][0]
        for problem, where in problems[1:]:
            note(first, problem, where)
        raise first


def note(error: BaseException, problem: BaseException, where: str) -> None:
    """Say on `error`, which will be raised, that `problem` came up while it was handled."""
    error.add_note(f"While this was handled, {where} raised {type(problem).__name__}: {problem}")


def _finalizing(trainer: Trainer, status: str) -> list[tuple[str, Callable[[], Any]]]:
    return [(f"{type(logger).__name__}.finalize", partial(logger.finalize, status)) for logger in trainer.loggers]


def _attempt(calls: Sequence[tuple[str, Callable[[], Any]]]) -> list[tuple[BaseException, str]]:
    """Make every call, whatever the others do; return what they raised, each with the name of its call."""
    problems: list[tuple[BaseException, str]] = []
    for name, call in calls:
        try:
            call()
        except BaseException as problem:
            _log.exception("%s failed while the run was ending", name)
            problems.append((problem, name))
    return problems
