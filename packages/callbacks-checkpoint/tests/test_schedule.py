"""Rhythms: steps, epochs, seconds."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from leyden_checkpoint.schedule import Schedule


def test_within_an_accumulation_window_nothing_is_due_twice() -> None:
    schedule = Schedule(every_n_steps=2)
    schedule.start(step=0, now_s=0.0)
    assert [schedule.is_due_at_step(step, 0.0) for step in (0, 1, 1, 2, 2, 3, 3, 4)] == [
        False, False, False, True, False, False, False, True,
    ]  # fmt: skip


@given(every=st.integers(1, 7), advances=st.lists(st.integers(0, 3), max_size=40), start=st.integers(0, 20))
def test_every_multiple_that_is_passed_is_met_once(every: int, advances: list[int], start: int) -> None:
    """Several optimizers advance the count by several a batch."""
    schedule, step, due = Schedule(every_n_steps=every), start, 0
    schedule.start(step=start, now_s=0.0)
    for advance in advances:
        step += advance
        due += schedule.is_due_at_step(step, 0.0)
    passed = step // every - start // every
    assert due == passed if every >= 3 else due <= passed


def test_seconds_count_from_the_last_save() -> None:
    schedule = Schedule(interval=timedelta(seconds=10))
    schedule.start(step=0, now_s=100.0)
    times = [105.0, 110.0, 112.0, 119.9, 121.0]
    assert [schedule.is_due_at_step(step + 1, now) for step, now in enumerate(times)] == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_time_that_is_up_within_an_accumulation_window_waits_for_its_step() -> None:
    schedule = Schedule(interval=timedelta(seconds=10))
    schedule.start(step=0, now_s=0.0)
    assert [schedule.is_due_at_step(step, now) for step, now in ((0, 11.0), (1, 12.0))] == [False, True]


def test_epochs_count_from_one() -> None:
    assert [Schedule(every_n_epochs=2).is_due_after_epoch(epoch) for epoch in range(4)] == [False, True, False, True]
    assert not Schedule(every_n_steps=1).is_due_after_epoch(0)


def test_several_processes_look_at_the_clock_now_and_then() -> None:
    """Ten minutes apart, by steps of 0.1 s: no save is late by more than a step, and few steps look."""
    schedule = Schedule(interval=timedelta(minutes=10))
    schedule.start(0, 0.0)
    looks, saves = 0, []
    for step in range(1, 20_001):
        now_s = step / 10
        if step < schedule.look_at:
            schedule.pass_by(step)
            continue
        looks += 1
        is_due, schedule.look_at = schedule.is_due_at_step(step, now_s), schedule.next_look(step, now_s)
        if is_due:
            saves.append(step)
    assert (saves, looks < 20_000 / 9) == ([6000, 12000, 18000], True)
