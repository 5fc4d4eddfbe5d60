"""The arithmetic of limits and intervals: when validation is due, when a fit ends, how many steps it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden import MisconfigurationException
from leyden.loops.schedule import ValidationSchedule, expected_steps, may_stop_early, reached
from leyden.settings import Settings


def due(schedule: ValidationSchedule, batches: int, epochs: int) -> list[tuple[int, int]]:
    """Every (epoch, batches into it) after which validation is due."""
    return [
        (epoch, count)
        for epoch in range(epochs)
        for count in range(1, batches + 1)
        if schedule.due(count, epoch * batches + count, epoch, last=count == batches)
    ]


@pytest.mark.parametrize(
    ("arguments", "batches", "expected"),
    [
        ({}, 3, [(0, 3), (1, 3), (2, 3), (3, 3)]),
        ({"val_check_interval": 1.0}, 3, [(0, 3), (1, 3), (2, 3), (3, 3)]),
        ({"check_val_every_n_epoch": 2}, 3, [(1, 3), (3, 3)]),
        ({"val_check_interval": 2}, 3, [(0, 2), (1, 2), (2, 2), (3, 2)]),
        ({"val_check_interval": 0.5}, 4, [(epoch, count) for epoch in range(4) for count in (2, 4)]),
        ({"val_check_interval": 0.1}, 2, [(epoch, count) for epoch in range(4) for count in (1, 2)]),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, 3, [(1, 1), (2, 2), (3, 3)]),
        ({"val_check_interval": 1, "check_val_every_n_epoch": 3}, 2, [(2, 1), (2, 2)]),
        ({"check_val_every_n_epoch": None}, 3, [(0, 3), (1, 3), (2, 3), (3, 3)]),
    ],
)
def test_validation_is_due_as_documented(
    arguments: dict[str, Any], batches: int, expected: list[tuple[int, int]]
) -> None:
    assert due(ValidationSchedule.of(Settings(**arguments), batches), batches, epochs=4) == expected


def test_an_unknown_length_validates_where_the_epoch_ends_or_by_batches() -> None:
    assert due(ValidationSchedule.of(Settings(), math.inf), 3, epochs=2) == [(0, 3), (1, 3)]
    assert due(ValidationSchedule.of(Settings(val_check_interval=2), math.inf), 3, epochs=2) == [(0, 2), (1, 2)]
    with pytest.raises(MisconfigurationException, match=r"val_check_interval=0\.5\): a fraction of the epoch needs"):
        ValidationSchedule.of(Settings(val_check_interval=0.5), math.inf)


def test_an_interval_beyond_the_epoch_is_an_error_unless_it_counts_across_epochs() -> None:
    with pytest.raises(MisconfigurationException, match=r"interval=4\): the epoch has only 3 training batches"):
        ValidationSchedule.of(Settings(val_check_interval=4), 3)
    across = ValidationSchedule.of(Settings(val_check_interval=4, check_val_every_n_epoch=None), 3)
    assert across == ValidationSchedule(4, None)


@given(hundredths=st.integers(1, 100))
def test_a_fraction_is_exact_where_floats_are_not(hundredths: int) -> None:
    schedule = ValidationSchedule.of(Settings(val_check_interval=hundredths / 100), 100)
    assert schedule.every_n_batches == (math.inf if hundredths == 100 else hundredths)


@given(batches=st.integers(1, 50), interval=st.integers(1, 50), epochs=st.integers(1, 4))
def test_across_epochs_validations_are_evenly_spaced(batches: int, interval: int, epochs: int) -> None:
    settings = Settings(val_check_interval=interval, check_val_every_n_epoch=None)
    found = due(ValidationSchedule.of(settings, batches), batches, epochs)
    assert [epoch * batches + count for epoch, count in found] == list(range(interval, batches * epochs + 1, interval))


def test_limits_are_reached_from_above_too() -> None:
    assert [reached(4, limit) for limit in (-1, None, 5, 4, 3, 0)] == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("arguments", "epochs", "steps", "expected"),
    [
        ({}, 0, 0, True),
        ({"min_epochs": 2}, 1, 99, False),
        ({"min_epochs": 2}, 2, 0, True),
        ({"min_steps": 5}, 1, 4, False),
        ({"min_steps": 5}, 1, 5, True),
        ({"min_steps": 5}, 0, 5, False),  # min_steps alone asks for a whole first epoch
        ({"min_steps": 5, "min_epochs": 3}, 3, 4, False),
    ],
)
def test_stopping_early_waits_for_the_minimum(
    arguments: dict[str, Any], epochs: int, steps: int, expected: bool
) -> None:
    assert may_stop_early(Settings(**arguments), epochs, steps) is expected


@given(batches=st.integers(1, 40), accumulate=st.integers(1, 9), epochs=st.integers(0, 5), limit=st.integers(-1, 60))
def test_expected_steps_are_those_a_run_takes(batches: int, accumulate: int, epochs: int, limit: int) -> None:
    steps = sum(
        (batch + 1) % accumulate == 0 or batch + 1 == batches for _ in range(epochs) for batch in range(batches)
    )
    settings = Settings(max_epochs=epochs, max_steps=limit)
    assert expected_steps(settings, batches, accumulate) == (steps if limit == -1 else min(steps, limit))


def test_expected_steps_of_an_unknown_length_are_those_of_the_limit() -> None:
    assert expected_steps(Settings(max_epochs=3), math.inf, 1) == math.inf
    assert expected_steps(Settings(max_epochs=3, max_steps=7), math.inf, 1) == 7
    assert expected_steps(Settings(max_epochs=-1, max_steps=7), 3, 1) == 7
    assert expected_steps(Settings(max_epochs=-1), 3, 1) == math.inf


@pytest.mark.parametrize(
    ("given", "num_batches", "steps"),
    [
        ({"max_epochs": 3}, 10, 33),
        ({"max_epochs": 3, "max_steps": 7}, 10, 7),
        ({"max_epochs": -1, "max_steps": 7}, 10, 7),
        ({"max_epochs": 3}, math.inf, math.inf),
    ],
)
def test_steps_where_accumulation_changes_are_those_that_its_schedule_says(
    given: dict[str, Any], num_batches: float, steps: float
) -> None:
    assert expected_steps(Settings(**given), num_batches, 1, lambda epochs, batches: epochs * (batches + 1)) == steps
