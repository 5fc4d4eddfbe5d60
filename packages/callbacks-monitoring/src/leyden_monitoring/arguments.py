"""Checks a constructor's arguments all at once, so that a user mends them in one go."""

from __future__ import annotations

from typing import Any

from leyden.errors import MisconfigurationException

__all__ = ["check_arguments", "is_count"]


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


def is_count(value: object, *, least: int = 0) -> bool:
    """Whether `value` is an int (bool is none) of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
