"""Processes end together: asked to at any moment, and by an error in any hook of one of them. None can hang."""

from __future__ import annotations

import pytest
from tests.parallel_ends import (
    MOMENTS,
    catch_and_live_on,
    end_beside_a_stopped_store,
    fail_in,
    meet_before_and_after,
    stop_at_moments,
)
from tests.together import together


def test_sigterm_at_any_moment_stops_all_at_the_same_place() -> None:
    first, second = together(stop_at_moments)
    assert (first.error, second.error) == ("", "")
    assert first.value == second.value
    for (entry, hook, *_), (ended, batches, position, told) in zip(MOMENTS, first.value, strict=True):
        assert ended == "SIGTERMException 143", (entry, hook)
        assert told == ("" if hook == "teardown" else "SIGTERMException"), (entry, hook)  # teardown is after the run
        if entry == "fit":
            assert batches >= 1
        else:
            assert (batches, 2 <= position <= 6) == (0, True), (entry, position)


@pytest.mark.parametrize(
    ("where", "rank", "told"),
    [
        ("prepare_data", 0, ""),
        ("setup", 1, ""),
        ("configure_optimizers", 1, ""),
        ("worker", 1, ""),
        ("interrupt", 0, ""),
        ("on_validation_epoch_end", 1, ""),
        ("on_exception", 1, "on_exception raised ValueError"),
        ("on_fit_end", 1, ""),
        ("teardown", 0, ""),
    ],
)
def test_an_error_of_one_process_ends_both(where: str, rank: int, told: str) -> None:
    ended = together(fail_in, where, rank, timeout_s=40)
    own, other = (ended[one].value for one in (rank, 1 - rank))
    assert own["raised"] == ("KeyboardInterrupt" if where == "interrupt" else "ValueError"), own
    assert f"process {rank} cannot go on" in own["text"]
    assert told in own["notes"]
    assert other["raised"] == "ProcessFailedError", other
    assert other["text"].startswith(
        f"Process {rank} of 2 failed, so that process {1 - rank} cannot go on. What process"
    )
    assert f"process {rank} cannot go on" in other["text"]
    if where not in (
        "prepare_data",
        "setup",
        "on_fit_end",
        "teardown",
    ):  # where the other has ended its run, or not begun
        assert (own["told"], other["told"]) == (own["raised"], "ProcessFailedError")


def test_errors_of_both_at_once_stay_each_ones_own() -> None:
    ended = together(fail_in, "on_train_batch_start", 2, timeout_s=40)
    assert [(one.value["raised"], one.value["text"]) for one in ended] == [
        ("ValueError", "process 0 cannot go on"),
        ("ValueError", "process 1 cannot go on"),
    ]


def test_who_waits_for_a_process_that_lives_on_is_ended() -> None:
    waiting, living = together(catch_and_live_on, 1, timeout_s=40)
    assert (waiting.value, waiting.exit_code) == (None, 1)
    assert not waiting.error
    assert (living.value, living.exit_code) == ("lives on", 0)


def test_who_fails_does_not_wait_for_a_store_that_does_not_answer() -> None:
    ended = together(end_beside_a_stopped_store, timeout_s=40)
    assert [(one.value, one.error) for one in ended] == [("held", ""), ("ended", "")]


def test_processes_meet_before_their_first_run_and_miss_each_other_after_the_last() -> None:
    first, second = together(meet_before_and_after)
    assert (first.error, second.error) == ("", "")
    assert first.value[0] == second.value[0] == 0
    assert first.value[1].startswith("Process 0 of 2 waited for others that have ended, or do something else: save_ch")
