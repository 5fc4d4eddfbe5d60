"""What a spike is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from leyden_optim.spikes import Spikes


@pytest.mark.parametrize(
    ("arguments", "before", "value", "is_spike"),
    [
        ({}, [1.0, 1.0], 3.0, False),  # more than three times the mean
        ({}, [1.0, 1.0], 3.1, True),
        ({}, [1.0, 1.0], -9.0, False),  # better
        ({}, [-1.0, -1.0], 0.9, False),
        ({}, [-1.0, -1.0], 1.1, True),
        ({"rtol": 0.5}, [1.0, 3.0], 3.1, True),
        ({"atol": 5.0}, [1.0], 5.0, False),  # far enough by rtol alone
        ({"atol": 5.0}, [1.0], 6.1, True),
        ({"atol": 5.0, "rtol": None}, [100.0], 104.0, False),
        ({"atol": 5.0, "rtol": None}, [100.0], 106.0, True),
        ({"mode": "max", "rtol": 0.5}, [1.0, 1.0], 0.4, True),
        ({"mode": "max", "rtol": 0.5}, [1.0, 1.0], 9.0, False),
        ({"window": 2}, [99.0, 1.0, 1.0], 3.5, True),
        ({"window": 3}, [99.0, 1.0, 1.0], 3.5, False),
        ({"warmup": 3}, [1.0, 1.0], 99.0, False),
        ({"warmup": 3}, [1.0, 1.0, 1.0], 99.0, True),
        ({"warmup": 0}, [], 99.0, False),
        ({}, [], math.nan, True),
        ({}, [1.0], -math.inf, True),
        ({"finite_only": False}, [1.0], math.nan, False),
        ({"finite_only": False}, [1.0, math.inf, math.nan], 3.1, True),  # which are no part of the mean
        ({"finite_only": False}, [math.nan], 3.1, False),
    ],
)
def test_a_spike_is_a_value_far_on_the_wrong_side(
    arguments: dict[str, Any], before: list[float], value: float, is_spike: bool
) -> None:
    spikes = Spikes(**arguments)
    for one in before:
        spikes.add(one)
    assert spikes.is_spike(value) is is_spike


def test_a_window_that_is_restored_goes_on() -> None:
    spikes = Spikes(window=2)
    spikes.restore([1.0, 2.0, 4.0], 7)
    assert (list(spikes.window), spikes.seen, spikes.mean) == ([2.0, 4.0], 7, 3.0)
