"""What callbacks check their arguments with."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from leyden import MisconfigurationException
from leyden.arguments import check_arguments, is_count, is_int, is_name, is_number, is_positive, refuse, takes


def test_every_wrong_argument_is_named_at_once() -> None:
    with pytest.raises(MisconfigurationException) as caught:
        check_arguments("Own", ("a", -1, False, "an int >= 0"), ("b", 2, True, "a number"), ("c", "x", False, "True"))
    assert str(caught.value) == "Own(a=-1): expected an int >= 0.\nOwn(c='x'): expected True."
    check_arguments("Own", ("a", 1, True, "an int"))


def test_problems_are_listed_and_none_is_no_error() -> None:
    refuse("Own", [])
    with pytest.raises(MisconfigurationException) as caught:
        refuse("Own", ["one", "two"])
    assert str(caught.value) == "Own(...) cannot work:\n  - one\n  - two"


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (is_int, [0, -3], [True, 1.0, "1", None]),
        (is_count, [0, 7], [-1, False, 0.0]),
        (lambda value: is_count(value, least=1), [1], [0]),
        (is_number, [0, -1.5, math.inf, math.nan], [True, "1", None, 1j]),
        (is_positive, [1, 0.5], [0, -1, math.inf, math.nan, True, "1"]),
        (is_name, ["x"], ["", None, b"x", 3]),
    ],
)
def test_what_is_what(check: Callable[[object], bool], right: list[object], wrong: list[object]) -> None:
    assert [check(value) for value in right] == [True] * len(right)
    assert [check(value) for value in wrong] == [False] * len(wrong)


@pytest.mark.parametrize(
    ("value", "takes_one"),
    [
        (lambda one: one, True),
        (lambda one, two=2: one, True),
        (lambda *all_of_them: 0, True),
        (lambda: 0, False),
        (lambda one, two: one, False),
        (lambda *, one: one, False),
        (len, True),
        (max, True),  # of which nobody knows the signature
        (int, True),
        (1, False),
        (None, False),
    ],
)
def test_what_takes_one_argument(value: object, takes_one: bool) -> None:
    assert takes(value, 1) is takes_one
