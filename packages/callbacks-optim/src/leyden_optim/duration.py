"""Lengths of time as users write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from leyden.arguments import is_number
from leyden.errors import did_you_mean

__all__ = ["Duration", "seconds_of"]

Duration = str | timedelta | Mapping[str, float]
"""``"DD:HH:MM:SS"``, a timedelta, or its keywords: ``{"hours": 1, "minutes": 30}``."""

_CLOCK = re.compile(r"(\d+):(\d{1,2}):(\d{1,2}):(\d{1,2})")
_UNITS = ("weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds")


def seconds_of(duration: Any) -> float:
    """Return a duration in seconds; the ValueError for anything else says what is expected.

    Example:
        >>> seconds_of("00:01:30:00"), seconds_of({"hours": 1, "minutes": 30})
        (5400.0, 5400.0)
    """
    if isinstance(duration, str):
        length = _of_clock(duration)
    elif isinstance(duration, timedelta):
        length = duration
    elif isinstance(duration, Mapping):
        length = _of_units(duration)
    else:
        example = {"seconds": duration} if is_number(duration) else {"hours": 1}
        raise ValueError(f"expected 'DD:HH:MM:SS', a timedelta or a dict such as {example}")
    if length < timedelta(0):
        raise ValueError("expected a length of time that is not negative")
    return length.total_seconds()


def _of_clock(text: str) -> timedelta:
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected 'DD:HH:MM:SS' (days, hours, minutes, seconds), e.g. '00:12:00:00' for 12 hours")
    days, hours, minutes, seconds = map(int, match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def _of_units(units: Mapping[str, Any]) -> timedelta:
    for unit, value in units.items():
        if unit not in _UNITS:
            raise ValueError(f"{unit!r} is no unit; expected {', '.join(_UNITS)}.{did_you_mean(str(unit), _UNITS)}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"expected a number of {unit}")
    if not units:
        raise ValueError("expected at least one unit, e.g. {'hours': 1}")
    try:
        return timedelta(**units)
    except (OverflowError, ValueError) as error:
        raise ValueError(f"expected a length of time that can be measured ({error})") from None
