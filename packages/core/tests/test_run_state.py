"""What the state of a trainer answers."""

from __future__ import annotations

import pytest

from leyden.run_state import RunningStage, TrainerFn, TrainerState, TrainerStatus


@pytest.mark.parametrize(
    ("status", "finished", "stopped"),
    [
        (TrainerStatus.INITIALIZING, False, False),
        (TrainerStatus.RUNNING, False, False),
        (TrainerStatus.FINISHED, True, True),
        (TrainerStatus.INTERRUPTED, False, True),
    ],
)
def test_a_run_has_finished_or_stopped(status: TrainerStatus, finished: bool, stopped: bool) -> None:
    state = TrainerState(TrainerFn.FITTING, RunningStage.TRAINING, status)
    assert (state.finished, state.stopped) == (finished, stopped)


def test_states_compare_with_the_words_they_stand_for() -> None:
    assert [str(fn) for fn in TrainerFn] == ["fit", "validate", "test", "predict"]
    assert f"{TrainerFn.FITTING} {RunningStage.SANITY_CHECKING}" == "fit sanity_check"
