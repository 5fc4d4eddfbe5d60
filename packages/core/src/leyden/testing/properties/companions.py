"""A callback among others: a second of its kind, neutral companions, and hooks that are not its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.hooks.binding import Call
from leyden.hooks.contract import HOOKS
from leyden.testing.differences import first_difference
from leyden.testing.report import Broken, NotChecked
from leyden.testing.runs import CORE, RAISED, Exam, Outcome, Watch, described, no_watch
from leyden.trainer import Trainer

__all__ = ["independence", "own_hooks_only", "second_instance"]

_HOOKS = frozenset(name for name, hook in HOOKS.items() if hook.callbacks) - {"state_dict", "load_state_dict"}


class Bystander(Callback):
    """Has state and logs a metric of its own: what any other callback may do."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.batches += 1
        self.log(f"bystander_{self.name}", float(self.batches))

    def on_validation_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self.log(f"bystander_{self.name}_validation", float(self.batches))

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}


def second_instance(exam: Exam) -> str:
    """With `name`s of their own two work beside each other, each as one does alone; or Trainer(...) says why not."""
    alone = exam.straight
    exam.empty_folder()
    first, second = exam.claims.fresh(), exam.claims.fresh()
    second.name = "second"
    if first.state_key == second.state_key and (alone.callbacks[0].state_dict() or first.state_dict()):
        raise Broken(
            f"its state_key, {first.state_key!r}, leaves out `name`, so that a checkpoint cannot hold two: build it "
            "with self._generate_state_key(...)"
        )
    try:
        exam.trainer([first, second])
    except MisconfigurationException as error:
        return f"refused: {' '.join(str(error).split())}"
    except Exception as error:
        raise Broken(f"a second one makes Trainer(...) raise {described(error)}") from error
    try:
        outcome = exam.fit([first, second])
    except RAISED as error:
        raise Broken(f"with a second one in the trainer a fit raises {described(error)}") from error
    if first_difference(_weights(alone), _weights(exam.bare)):
        return ""  # what trains otherwise, twice, is not what it is once
    for place, callback in zip(("first", "second"), outcome.callbacks, strict=True):
        own, expected = (
            _without_paths(exam.without_varying(one.state_dict())) for one in (callback, alone.callbacks[0])
        )
        if differs := first_difference(own, expected):
            raise Broken(f"the {place} of two ends with another state than one alone: {differs}")
    return ""


def _without_paths(value: Any) -> Any:
    """Return a state without the names of files, which two cannot have in common."""
    if isinstance(value, str):
        return "a path" if os.sep in value else value
    if isinstance(value, dict):
        return [(_without_paths(key), _without_paths(item)) for key, item in value.items()]
    return [_without_paths(item) for item in value] if isinstance(value, (list, tuple)) else value


def independence(exam: Exam) -> str:
    """Before and after other callbacks, whatever they log, it does what it does alone."""
    for names in ("acb", "bac"):
        beside = _beside(exam, names)
        if differs := _difference(exam, beside, exam.straight):
            where = "between" if names == "acb" else "after"
            raise Broken(f"{where} two callbacks that only log, the run is not what it is alone: {differs}")
    return ""


def own_hooks_only(exam: Exam) -> str:
    """It leaves it to the trainer to call the hooks of other callbacks and of the module."""
    try:
        _beside(exam, "acb")
    except Broken as error:
        raise NotChecked("mend independence first") from error
    found: list[str] = exam.kept["calls of others"]
    if found:
        raise Broken(f"{found[0]}; the trainer calls each hook once: share what both need by a function of its own")
    return ""


def _beside(exam: Exam, names: str) -> Outcome:
    """Return the plain fit with the callback, ``c``, in a row of others."""
    if names not in exam.kept:
        _ = exam.straight
        exam.empty_folder()
        others = {name: Bystander(name) for name in names if name != "c"}
        callback = exam.claims.fresh()
        calls: list[str] = exam.kept.setdefault("calls of others", [])
        exam.seeded()
        module = exam.module()
        watch = _calls_of([*others.values(), module], callback, calls) if names == "acb" else no_watch
        try:
            exam.kept[names] = exam.fit([others.get(name, callback) for name in names], module=module, watch=watch)
        except RAISED as error:
            exam.kept[names] = error
            raise Broken(f"beside other callbacks a fit raises {described(error)}") from error
    found = exam.kept[names]
    if isinstance(found, BaseException):
        raise Broken(f"beside other callbacks a fit raises {described(found)}")
    outcome: Outcome = found
    return outcome


def _difference(exam: Exam, beside: Outcome, alone: Outcome) -> str:
    return (
        first_difference(_without_bystanders(exam, beside.end), _without_bystanders(exam, alone.end))
        or first_difference(_without_bystanders(exam, beside.metrics), alone.metrics)
        or first_difference(_rows(exam, beside), _rows(exam, alone))
    )


def _without_bystanders(exam: Exam, value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if "ystander" not in str(key) and key != "loops"}
        return exam.without_varying({key: _without_bystanders(exam, item) for key, item in kept.items()})
    if isinstance(value, list):
        return [_without_bystanders(exam, item) for item in value]
    return value


def _rows(exam: Exam, outcome: Outcome) -> list[Any]:
    rows = [(step, _without_bystanders(exam, row)) for step, row in outcome.rows]
    return [(step, row) for step, row in rows if row.keys() - {"epoch"}]


def _weights(outcome: Outcome) -> Any:
    return outcome.end["state_dict"]


def _calls_of(others: list[object], callback: Callback, found: list[str]) -> Watch:
    """Note calls of hooks of `others` that come out of a hook of `callback`, and not from the trainer's loops."""
    own = {id(other): type(other).__name__ for other in others}

    def wrap(owner: object, hook: str, call: Call) -> Call:
        return _watched(hook, call, own, found) if owner is callback else call

    return wrap


def _watched(hook: str, call: Call, own: dict[int, str], found: list[str]) -> Call:
    def watched(*args: Any) -> Any:
        def note(frame: FrameType, event: str, argument: Any) -> None:
            code = frame.f_code
            if event == "call" and code.co_name in _HOOKS and code.co_argcount:
                called = own.get(id(frame.f_locals.get(code.co_varnames[0])))
                caller = _caller(frame)
                if called is not None and caller:
                    found.append(f"{hook} calls {called}.{code.co_name} ({caller})")

        outer: Callable[..., Any] | None = sys.getprofile()
        sys.setprofile(note)
        try:
            return call(*args)
        finally:
            sys.setprofile(outer)

    return watched


def _caller(frame: FrameType) -> str:
    """Return who made the plan, or the method itself, call; "" where it was a loop of the core."""
    outer = frame.f_back
    while outer is not None and outer.f_code.co_filename.startswith(_PLAN):
        outer = outer.f_back
    if outer is None or outer.f_code.co_filename.startswith(CORE):
        return ""
    return f"{Path(outer.f_code.co_filename).name}:{outer.f_lineno}"


_PLAN = f"{CORE}hooks{CORE[-1]}"
