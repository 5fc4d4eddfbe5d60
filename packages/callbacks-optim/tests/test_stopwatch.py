"""Laps add up."""

from __future__ import annotations

from leyden_optim.stopwatch import Stopwatch


def test_laps_add_up_and_pauses_do_not_count() -> None:
    watch = Stopwatch()
    assert watch.elapsed(5.0) == 0.0
    watch.start(10.0)
    watch.stop(12.0)
    assert (watch.started, watch.ended, watch.elapsed(50.0)) == (10.0, 12.0, 2.0)
    watch.start(100.0)
    assert (watch.ended, watch.elapsed(103.0)) == (None, 5.0)


def test_a_stopwatch_goes_on_from_an_earlier_total() -> None:
    watch = Stopwatch(60.0)
    assert watch.elapsed(0.0) == 60.0
    watch.start(0.0)
    assert watch.elapsed(1.0) == 61.0


def test_stopping_twice_or_before_the_start_changes_nothing() -> None:
    watch = Stopwatch()
    watch.stop(1.0)
    assert (watch.ended, watch.elapsed(9.0)) == (None, 0.0)
    watch.start(2.0)
    watch.stop(3.0)
    watch.stop(8.0)
    assert watch.elapsed(9.0) == 1.0
