"""What only the first process does."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable

import pytest

from leyden.rank_zero import (
    _rank_from_environment,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
    rank_zero_warn,
)


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def become(rank: int) -> None:
        monkeypatch.setattr(rank_zero_only, "rank", rank)

    return become


def test_a_decorated_function_runs_in_the_first_process_only(as_rank: Callable[[int], None]) -> None:
    @rank_zero_only
    def add(a: int, b: int = 1) -> int:
        """Add."""
        return a + b

    assert add(2) == 3
    assert (add.__name__, add.__doc__, list(inspect.signature(add).parameters)) == ("add", "Add.", ["a", "b"])
    as_rank(1)
    assert add(2, b=3) is None
    assert rank_zero_only(lambda: 1, "default")() == "default"
    as_rank(0)
    assert rank_zero_only(lambda: 1, "default")() == 1


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "1"}, 3),
        ({"LOCAL_RANK": "2"}, 2),
        ({"SLURM_PROCID": "4"}, 4),
        ({"RANK": "x"}, 0),
    ],
)
def test_the_launcher_says_which_process_this_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank: int
) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _rank_from_environment() == rank


def test_a_warning_points_at_the_line_outside_leyden(as_rank: Callable[[int], None]) -> None:
    with pytest.warns(UserWarning, match="careful") as caught:
        rank_zero_warn("careful")
    assert caught[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="careful"):
        rank_zero_warn("careful", RuntimeWarning)
    with pytest.warns(DeprecationWarning, match="old") as caught:
        rank_zero_deprecation("old")
    assert caught[0].filename == __file__
    as_rank(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_zero_warn("careful")
        rank_zero_deprecation("old")


def test_a_stacklevel_counts_as_in_warnings() -> None:
    def warn(stacklevel: int) -> int:
        with pytest.warns(UserWarning, match="here") as caught:
            call(stacklevel)
        return caught[0].lineno

    def call(stacklevel: int) -> None:
        rank_zero_warn("here", stacklevel=stacklevel)

    first = call.__code__.co_firstlineno
    assert warn(1) == first + 1
    assert warn(2) == warn.__code__.co_firstlineno + 2


def test_messages_show_unless_logging_is_configured(
    as_rank: Callable[[int], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    rank_zero_info("Seed set to %d", 3)
    assert capsys.readouterr().err == "Seed set to 3\n"
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])
    rank_zero_info("hidden by the program's own logging")
    assert capsys.readouterr().err == ""


def test_messages_are_those_of_the_first_process(
    as_rank: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    rank_zero_info("one")
    as_rank(2)
    rank_zero_info("two")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("leyden", "one")]
