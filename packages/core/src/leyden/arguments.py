"""Checks a constructor's arguments all at once, so that a user mends them in one go."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, TypeGuard

from leyden.errors import MisconfigurationException

__all__ = ["check_arguments", "is_count", "is_int", "is_name", "is_number", "is_positive", "refuse", "takes"]


def check_arguments(owner: str, *checks: tuple[str, Any, bool, str]) -> None:
    """Raise one `MisconfigurationException` that names every argument out of range.

    Each of `checks` is a name, the value seen, whether it is right, and what was expected.

    Example:
        >>> check_arguments("Bar", ("refresh_rate", -1, False, "an int >= 0"), ("leave", True, True, "True or False"))
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: Bar(refresh_rate=-1): expected an int >= 0.
    """
    wrong = [f"{owner}({name}={value!r}): expected {expected}." for name, value, ok, expected in checks if not ok]
    if wrong:
        raise MisconfigurationException("\n".join(wrong))


def refuse(owner: str, problems: Sequence[str]) -> None:
    """Raise one `MisconfigurationException` that lists `problems`, where there are any.

    Example:
        >>> refuse("Saver", ["mode='mid': expected 'min' or 'max'"])
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: Saver(...) cannot work:
          - mode='mid': expected 'min' or 'max'
    """
    if problems:
        raise MisconfigurationException("\n  - ".join([f"{owner}(...) cannot work:", *problems]))


def is_int(value: object) -> TypeGuard[int]:
    """Whether `value` is an int; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: object, *, least: int = 0) -> bool:
    """Whether `value` is an int (bool is none) of at least `least`."""
    return is_int(value) and value >= least


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether `value` is an int or a float; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_positive(value: object) -> bool:
    """Whether `value` is a finite number above 0."""
    return is_number(value) and 0 < value < math.inf


def is_name(value: object) -> bool:
    """Whether `value` is a string that is not empty."""
    return isinstance(value, str) and bool(value)


def takes(value: object, count: int) -> bool:
    """Whether `value` is a function that can be called with so many arguments by position.

    One whose signature nobody knows, as some of C, is taken to be one.

    Example:
        >>> takes(lambda epoch: epoch < 5, 1), takes(lambda: True, 1), takes(5, 1)
        (True, False, False)
    """
    if not callable(value):
        return False
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
