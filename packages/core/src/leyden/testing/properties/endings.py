"""A run that ends in an error, Ctrl-C or SIGTERM: what surfaces, what is left behind, and whether another works."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from leyden.callback import Callback
from leyden.errors import SIGTERMException
from leyden.module import LightningModule
from leyden.testing.report import Broken
from leyden.testing.runs import Exam, described
from leyden.testing.surroundings import process_marks, what_is_left

__all__ = ["exceptions"]


class Failure(Exception):
    """What a step raises to end a run."""


def exceptions(exam: Exam) -> str:
    """What ends the run surfaces; threads, files, handlers, patches and hooks are gone; a second fit works."""
    _ = exam.straight
    ways: list[tuple[str, str, Callable[[], None], type[BaseException] | None]] = [
        ("training_step raises", "training_step", _fail, Failure),
        ("Ctrl-C comes in validation_step", "validation_step", _interrupt, KeyboardInterrupt),
        ("the fit ends well", "", _fail, None),
    ]
    if threading.current_thread() is threading.main_thread():
        ways.insert(2, ("SIGTERM comes in training_step", "training_step", _terminate, SIGTERMException))
    for when, step, action, expected in ways:
        _check(exam, when, step, action, expected)
    return ""


def _check(exam: Exam, when: str, step: str, action: Callable[[], None], expected: type[BaseException] | None) -> None:
    exam.empty_folder()
    callback, module = exam.claims.fresh(), exam.module()
    marks, patched = process_marks(), _patched_classes(exam)
    own = set(vars(module))
    if step:
        _at_second_call(module, step, action)
    raised: BaseException | None = None
    trainer, _ = exam.trainer([callback])
    exam.seeded()
    try:
        trainer.fit(module)
    except BaseException as error:
        raised = error
    if expected is not None and not isinstance(raised, expected):
        came = "nothing comes out" if raised is None else f"what comes out is {described(raised)}"
        raise Broken(f"when {when}, {came}; do not swallow or replace what is not its own")
    if expected is None and raised is not None:
        raise Broken(f"a fit raises {described(raised)}")
    for note in getattr(raised, "__notes__", ()):
        if type(callback).__name__ in note and "raised" in note:
            raise Broken(f"when {when}: {note}; teardown may come at any time, also before on_fit_start")
    raised = None
    left = what_is_left(marks) or _left_on(module, own - {step}, step) or _repatched(patched)
    if left and not any(part in left for part in exam.claims.leaves):
        raise Broken(f"when {when} it leaves {left}; take it back in teardown, which always comes (leaves=[...])")
    _again(exam, callback, when)


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


def _at_second_call(module: LightningModule, name: str, action: Callable[[], None]) -> None:
    """Let the second call of a step of this module do something first."""
    original = getattr(module, name)
    calls = 0

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            action()
        return original(*args, **kwargs)

    object.__setattr__(module, name, step)


def _left_on(module: nn.Module, own: set[str], step: str) -> str:
    for name, value in vars(module).items():
        if callable(value) and name not in own and name != step and hasattr(type(module), name):
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


def _patched_classes(exam: Exam) -> dict[str, tuple[Any, dict[str, Any]]]:
    classes = [type(exam.module()), nn.Module, LightningModule, torch.optim.Optimizer, torch.Tensor]
    return {cls.__qualname__: (cls, dict(vars(cls))) for cls in classes}


def _repatched(before: dict[str, tuple[Any, dict[str, Any]]]) -> str:
    for name, (cls, had) in before.items():
        for key, value in vars(cls).items():
            if callable(value) and had.get(key) is not value:
                return f"{name}.{key} replaced"
    return ""
