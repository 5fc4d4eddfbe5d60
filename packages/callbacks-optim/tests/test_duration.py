"""Durations in all their forms."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from leyden_optim.duration import seconds_of


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("00:00:00:15", 15.0),
        ("01:02:03:04", 93784.0),
        ("00:36:00:00", 129600.0),
        ("365:0:0:0", 31536000.0),
        (timedelta(hours=1, milliseconds=500), 3600.5),
        (timedelta(0), 0.0),
        ({"minutes": 1.5}, 90.0),
        ({"weeks": 1, "seconds": 1}, 604801.0),
    ],
)
def test_a_duration_in_seconds(duration: Any, seconds: float) -> None:
    assert seconds_of(duration) == seconds


@pytest.mark.parametrize(
    ("duration", "told"),
    [
        ("12:00:00", "expected 'DD:HH:MM:SS'"),
        ("an hour", "expected 'DD:HH:MM:SS'"),
        ("-1:00:00:00", "expected 'DD:HH:MM:SS'"),
        (60, "expected 'DD:HH:MM:SS', a timedelta or a dict"),
        (timedelta(seconds=-1), "not negative"),
        ({"minute": 1}, "'minute' is no unit; expected weeks, days, .* Did you mean 'minutes'?"),
        ({"minutes": "1"}, "expected a number of minutes"),
        ({"minutes": True}, "expected a number of minutes"),
        ({}, "at least one unit"),
        ({"days": 1e30}, "that can be measured"),
        ({"days": float("nan")}, "that can be measured"),
    ],
)
def test_what_is_no_duration_is_told(duration: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        seconds_of(duration)
