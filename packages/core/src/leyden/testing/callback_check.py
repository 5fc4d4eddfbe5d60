"""The kit's front: `check_callback`, which returns a table, and `callback_tests`, which makes tests of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leyden.callback import Callback
from leyden.testing.claims import Claims, claims_of
from leyden.testing.properties import PROPERTIES, Property
from leyden.testing.report import Broken, CallbackReport, NotChecked, Result
from leyden.testing.runs import RAISED, CannotRun, Exam, described
from leyden.testing.surroundings import left_untouched

__all__ = ["callback_tests", "check_callback"]


def check_callback(make: Callable[[], Callback], **what: Any) -> CallbackReport:
    """Run a callback through everything that is true of a good one; the result is a table, and false if one is not.

    `make` returns a fresh callback: the class, or ``lambda: MyCallback(every_n_steps=2)``. Each run has an empty
    working folder of its own, so that a callback with files is made with relative paths. What the process was like is
    put back, and nothing is printed.

    Keywords say what the callback claims and how it is run:

    - ``module``: a function that returns the module to train, with its data; else `TinyClassifier`.
    - ``trainer``: a dict of arguments of `Trainer`, instead of those of the check.
    - ``stages``: which of ``"fit"``, ``"validate"``, ``"test"`` and ``"predict"`` it works in; all of them.
    - ``only_watches``: True claims that it changes nothing; None finds out, and calls no change broken.
    - ``reports_every_n_steps``: at which steps it may read tensors; else `log_every_n_steps` of the trainer, here 5.
    - ``calls_per_step``: how many Python calls its hooks may make at a step where it does not report; 100, about what
      the rest of a step of a small model makes.
    - ``older_generations``: False calls hooks of older generations broken.
    - ``varies``: parts of names, of states and metrics, that are not the same twice: seconds, memory.
    - ``leaves``: parts of the names of what stays behind a fit on purpose, such as a replaced ``forward``.
    - ``without``: reasons by the names of properties that are not to be checked.

    Raises:
        MisconfigurationException: what is not among these, or out of range.

    Example:
        >>> class CountBatches(Callback):
        ...     def __init__(self):
        ...         self.batches = 0
        ...
        ...     def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ...         self.batches += 1
        >>> report = check_callback(CountBatches)
        >>> report.broken
        []
    """
    claims = claims_of(make, what, list(PROPERTIES))
    with tempfile.TemporaryDirectory(prefix="leyden-check-") as folder, left_untouched() as surroundings:
        return _examined(Exam(claims, Path(folder).resolve(), surroundings))


def callback_tests(make: Callable[[], Callback], **what: Any) -> Callable[..., None]:
    """Return a test for pytest with one id per property; it takes what `check_callback` takes.

    ``test_my_callback = callback_tests(MyCallback)`` is all that a test module needs. What is not checked is skipped.
    """
    import pytest

    claims_of(make, what, list(PROPERTIES))  # a mistake in them is told when tests are collected
    reports: list[CallbackReport] = []

    @pytest.mark.parametrize("name", list(PROPERTIES))
    def test_callback(name: str) -> None:
        if not reports:
            reports.append(check_callback(make, **what))
        result = reports[0][name]
        if result.outcome == "not checked":
            pytest.skip(result.reason)
        if not result.holds:
            pytest.fail(f"{reports[0].callback}: {PROPERTIES[name].means}. Broken: {result.reason}", pytrace=False)

    return test_callback


def _examined(exam: Exam) -> CallbackReport:
    results: dict[str, Result] = {}
    for name, one in PROPERTIES.items():
        results[name] = _result(one, exam, results)
    return CallbackReport(_name_of(exam.claims), list(results.values()))


def _result(one: Property, exam: Exam, results: dict[str, Result]) -> Result:
    if one.name in exam.claims.without:
        return Result(one.name, "not checked", exam.claims.without[one.name])
    for needed in one.needs:
        if results[needed].outcome == "broken":
            return Result(one.name, "not checked", f"mend {needed} first")
    try:
        return Result(one.name, "holds", one.check(exam))
    except Broken as broken:
        return Result(one.name, "broken", _sentence(broken))
    except NotChecked as unknown:
        return Result(one.name, "not checked", _sentence(unknown))
    except CannotRun:
        return Result(one.name, "not checked", "a plain fit raises: mend stages first")
    except RAISED as error:
        return Result(one.name, "broken", f"it raises {described(error)}")


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


def _name_of(claims: Claims) -> str:
    try:
        return type(claims.fresh()).__qualname__
    except Exception:
        return getattr(claims.make, "__qualname__", "callback")
