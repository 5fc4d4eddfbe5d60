"""What can be told of a callback without a trainer: how it is made."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from leyden.callback import Callback
from leyden.state.rng import collect_rng
from leyden.testing.differences import first_difference
from leyden.testing.report import Broken, NotChecked
from leyden.testing.runs import CannotRun, Exam, described
from leyden.testing.surroundings import process_marks, what_is_left

__all__ = ["constructor"]

_PLAIN = (type(None), bool, int, float, complex, str, bytes, Path)
_MUTABLE = (list, dict, set, bytearray, deque, Tensor)


def constructor(exam: Exam) -> str:
    """Made twice, it is two equal callbacks that share nothing; making it leaves no trace, and needs no trainer."""
    folder, marks, numbers = exam.empty_folder(), process_marks(), collect_rng()
    first = exam.claims.fresh()
    if first_difference(collect_rng(), numbers):
        raise Broken("making it draws random numbers or seeds a generator; do so in setup, with a generator of its own")
    if found := sorted(str(path.relative_to(folder)) for path in folder.rglob("*")):
        raise Broken(f"making it writes {found[0]}; write files when a run begins, in setup or later")
    if left := what_is_left(marks):
        raise Broken(f"making it leaves {left}; open what it needs in setup and close it in teardown")
    before = snapshot(exam, first)
    _check_without_trainer(first)
    second = exam.claims.fresh()
    if first is second:
        raise Broken("make() returns one callback twice; return a fresh one each time")
    if differs := first_difference(before, snapshot(exam, second)):
        raise Broken(f"made twice, it is not the same: {differs}")
    if shared := next(_shared(first, second), None):
        raise Broken(f"two of them share {shared}; make it in __init__, or copy what is given")
    try:
        _ = exam.straight
    except (CannotRun, NotChecked):
        return ""
    if differs := first_difference(before, snapshot(exam, exam.claims.fresh())):
        raise Broken(f"a run changes what the next one is made of: {differs}; let nothing on the class change")
    return ""


def _check_without_trainer(callback: Callback) -> None:
    for what in ("state_key", "state_dict"):
        try:
            value = getattr(callback, what)
            if what == "state_dict":
                value()
        except Exception as error:
            raise Broken(
                f"{what} cannot be asked for before there is a trainer: it raises {described(error)}"
            ) from error


def snapshot(exam: Exam, callback: Callback) -> dict[str, Any]:
    """Return what a callback and its classes hold, with the types of what cannot be compared."""
    own = {name: _comparable(value) for name, value in vars(callback).items() if name != "_trainer_ref"}
    for cls in type(callback).__mro__:
        if issubclass(cls, Callback) and cls is not Callback:
            of_class = {name: value for name, value in vars(cls).items() if not name.startswith("__")}
            own |= {
                f"{cls.__name__}.{name}": _comparable(value)
                for name, value in of_class.items()
                if isinstance(value, (*_PLAIN, *_MUTABLE, tuple))
            }
    return copy.deepcopy(dict(exam.without_varying(own)))


def _comparable(value: Any, depth: int = 0) -> Any:
    if depth > 6:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return {str(key): _comparable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return [_comparable(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(_comparable(item, depth + 1)) for item in value)
    return value if isinstance(value, (*_PLAIN, Tensor)) else type(value).__qualname__


def _shared(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Yield the names of what two callbacks both hold and either may change."""
    for name, value in vars(one).items():
        its = vars(other).get(name)
        if value is its and isinstance(value, _MUTABLE):
            yield f"the {type(value).__name__} {where}{name}"
        elif isinstance(value, (list, tuple)) and isinstance(its, (list, tuple)):
            for left, right in zip(value, its, strict=False):
                if left is right and isinstance(left, _MUTABLE):
                    yield f"the {type(left).__name__} in {where}{name}"
        elif value is not its and where.count(".") < 3 and _is_of_objects(value) and _is_of_objects(its):
            yield from _shared(value, its, f"{where}{name}.")


def _is_of_objects(value: Any) -> bool:
    return hasattr(value, "__dict__") and not isinstance(value, type) and not callable(value)
