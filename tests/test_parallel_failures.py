"""A callback that fails in one of two processes ends both, whatever hook it fails in; nothing waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.parallel_failures import HOOKS, attached, failures
from tests.parallel_runs import PROCESSES
from tests.together import Ended, together

pytestmark = pytest.mark.skipif(PROCESSES == 1, reason="one process has no other")


@pytest.fixture(scope="module", params=[0.0, 0.3], ids=["at once", "waited for"])
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    port = 20_000 + os.getpid() % 400 * 50  # the first of a row, one for each hook, apart from those of other tests
    return together(failures, str(tmp_path_factory.mktemp("failures")), port, request.param, timeout_s=120)


@pytest.mark.parametrize("hook", [hook for hooks in HOOKS.values() for hook in hooks])
def test_a_failure_in_one_process_ends_all(ended: list[Ended], hook: str) -> None:
    assert not any(one.error for one in ended), [one.error for one in ended]
    other, failed = (one.value[hook] for one in ended)
    assert f"ValueError: no {hook} here" in failed
    assert "ProcessFailedError" not in failed
    # What one has to put into a checkpoint is asked for by all at one place, at which they tell each other.
    told = f"no {hook} here" if hook not in ("state_dict", "on_save_checkpoint") else "another process failed"
    assert told in other


def test_what_the_environment_attaches_fails_for_itself(tmp_path: Path) -> None:
    """A callback that watches is switched off in the process in which it fails; what decides, decides together."""
    ended = together(attached, str(tmp_path), folder=tmp_path)
    assert not any(one.error for one in ended), [one.error for one in ended]
    first, second = (one.value for one in ended)
    assert sorted(second["attached"]) == ["EarlyStopping", "Heartbeat", "Watch"]
    assert sorted(first["attached"]) == sorted([*second["attached"], "ModelSummary"])
    assert first["steps"] == second["steps"] == 3 * 12
    assert (first["seen"], first["off"]) == (3 * 12, [])
    assert (second["seen"], second["off"]) == (2, ["Watch"])
    assert "OSError: nowhere to send this" in second["printed"]
    assert "nowhere to send this" not in first["printed"]
    assert (tmp_path / "heartbeat.json").exists()
