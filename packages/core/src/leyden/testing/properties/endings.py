"""A run that ends in an error, Ctrl-C or SIGTERM: what surfaces, what is left behind, and whether another works."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from leyden.callback import Callback
from leyden.errors import SIGTERMException
from leyden.module import LightningModule
from leyden.testing.process_state import Functions
from leyden.testing.report import Broken
from leyden.testing.runs import Exam, described
from leyden.testing.surroundings import process_marks, temporary_folder, what_is_left

__all__ = ["exceptions"]


class Failure(Exception):
    """What a step raises to end a run."""


def exceptions(exam: Exam) -> str:
    """What ends the run surfaces; threads, files, handlers, patches and hooks are gone; a second fit works."""
    _ = exam.straight
    ways = [_BY_ERROR, _BY_INTERRUPT, _BY_SIGNAL]
    for way in ways if threading.current_thread() is threading.main_thread() else ways[:2]:
        if not _check(exam, way, at_call=2):
            _check(exam, way, at_call=1)  # there is no second one
    _check(exam, _BEFORE_IT_BEGINS, at_call=1)
    _check(exam, None)
    return ""


def _check(exam: Exam, way: _Way | None, at_call: int = 0) -> bool:
    """End a run this way and look at what comes of it; return whether it was ended."""
    with temporary_folder(exam.folder / "temporary") as temporary:
        return _check_with(exam, way, at_call, temporary)


def _check_with(exam: Exam, way: _Way | None, at_call: int, temporary: Path) -> bool:
    exam.empty_folder()
    callback, module = exam.claims.fresh(), exam.module()
    marks, functions = process_marks(temporary), Functions(type(module))
    calls = [] if way is None else _calls_of(module, way, at_call)
    own = set(vars(module))
    raised: BaseException | None = None
    trainer, _ = exam.trainer([callback])
    exam.seeded()
    try:
        trainer.fit(module)
    except BaseException as error:
        raised = error
    if way is not None and len(calls) < at_call:
        return False
    when = "the fit ends well" if way is None else f"{way.name} {way.step}"
    _check_raised(callback, when, raised, way)
    raised = None  # it holds the frames of the run, and all that is in them
    left = what_is_left(marks, temporary) or _left_on(module, own)
    if not left and (replaced := functions.replaced()):
        left = f"{replaced} replaced"
    if left and not any(part in left for part in exam.claims.leaves):
        raise Broken(f"when {when} it leaves {left}; take it back in teardown, which always comes (leaves=[...])")
    _again(exam, callback, when)
    return True


def _check_raised(callback: Callback, when: str, raised: BaseException | None, way: _Way | None) -> None:
    if way is None:
        if raised is not None:
            raise Broken(f"a fit raises {described(raised)}")
        return
    if not isinstance(raised, way.raises):
        came = "nothing comes out" if raised is None else f"what comes out is {described(raised)}"
        raise Broken(f"when {when}, {came}; do not swallow or replace what is not its own")
    for note in getattr(raised, "__notes__", ()):
        if type(callback).__name__ in note and "raised" in note:
            raise Broken(f"when {when}: {note}; teardown may come at any time, also before on_fit_start")


def _again(exam: Exam, callback: Callback, when: str) -> None:
    exam.empty_folder()
    trainer, _ = exam.trainer([callback], max_epochs=1)
    exam.seeded()
    try:
        trainer.fit(exam.module())
    except Exception as error:
        raise Broken(f"a second fit, after {when}, raises {described(error)}; let setup begin anew") from error


def _fail() -> None:
    raise Failure("the check ends the run here")


def _interrupt() -> None:
    raise KeyboardInterrupt


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@dataclass(frozen=True)
class _Way:
    """How a run is ended: what happens in which step, and what comes out."""

    name: str
    step: str
    act: Callable[[], None]
    raises: type[BaseException]


_BY_ERROR = _Way("an error comes up in", "training_step", _fail, Failure)
_BY_INTERRUPT = _Way("Ctrl-C comes in", "validation_step", _interrupt, KeyboardInterrupt)
_BEFORE_IT_BEGINS = _Way("an error comes up in", "configure_optimizers", _fail, Failure)
_BY_SIGNAL = _Way("SIGTERM comes in", "training_step", _terminate, SIGTERMException)


def _calls_of(module: LightningModule, way: _Way, at_call: int) -> list[None]:
    """Let it happen in a call of this module's step; return what gets longer with each."""
    original = getattr(module, way.step)
    calls: list[None] = []

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == at_call:
            way.act()
        return original(*args, **kwargs)

    if type(module).validation_step is not LightningModule.validation_step or way.step != "validation_step":
        object.__setattr__(module, way.step, step)
    return calls


def _left_on(module: nn.Module, own: set[str]) -> str:
    for name, value in vars(module).items():
        if callable(value) and name not in own and hasattr(type(module), name):
            return f"{type(module).__name__}.{name} replaced on the module"
    for name, part in module.named_modules():
        for function in _hooks_of(part):
            if not _is_of_torch(function):
                what = getattr(function, "__qualname__", type(function).__qualname__)
                return f"the hook {what} on {name or type(module).__name__}"
    return ""


def _hooks_of(part: nn.Module) -> Iterator[Any]:
    for kind, hooks in vars(part).items():
        if kind.endswith("_hooks") and isinstance(hooks, dict):
            yield from hooks.values()
    for parameter in part.parameters(recurse=False):
        yield from (parameter._backward_hooks or {}).values()
        yield from (getattr(parameter, "_post_accumulate_grad_hooks", None) or {}).values()


def _is_of_torch(function: Any) -> bool:
    module = getattr(function, "__module__", None) or type(function).__module__
    return str(module).partition(".")[0] == "torch"
