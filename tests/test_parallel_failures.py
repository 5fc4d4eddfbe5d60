"""A callback that fails in one of two processes ends both, whatever hook it fails in; nothing waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.parallel_failures import HOOKS, UNALIKE, attached, broken, failures, unalike
from tests.parallel_runs import PROCESSES
from tests.together import Ended, together

pytestmark = pytest.mark.skipif(PROCESSES == 1, reason="one process has no other")


@pytest.fixture(scope="module", params=[0.0, 0.3], ids=["at once", "waited for"])
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Ended]:
    return together(failures, str(tmp_path_factory.mktemp("failures")), request.param, timeout_s=120)


@pytest.mark.parametrize("hook", [hook for hooks in HOOKS.values() for hook in hooks])
def test_a_failure_in_one_process_ends_all(ended: list[Ended], hook: str) -> None:
    assert not any(one.error for one in ended), [one.error for one in ended]
    other, failed = (one.value[hook] for one in ended)
    assert f"ValueError: no {hook} here" in failed
    assert "ProcessFailedError" not in failed
    assert f"no {hook} here" in other


def test_processes_that_are_not_alike_say_so_and_none_waits(tmp_path: Path) -> None:
    """What decides, saves or changes the training is in all processes or in none, with the same settings and order."""
    first, second = together(unalike, folder=tmp_path)
    assert not any((first.error, second.error)), (first.error, second.error)
    assert first.value == second.value
    assert first.value.pop("well") == "well"
    for name, (_, told) in UNALIKE.items():
        assert told in first.value.pop(name)
    for name, told in first.value.items():
        callback, _, rank = name.partition(" in process ")
        assert f"processes of this run are not alike: {callback}" in told
        assert f" is in process {rank} only. " in told
    assert not [*tmp_path.iterdir()]


def test_processes_that_live_on_after_a_failure_meet_anew(ended: list[Ended]) -> None:
    """Each of the runs above had a group of its own, at the one address; the last one ends well."""
    assert [one.value["no hook"] for one in ended] == ["well", "well"]


def test_what_the_environment_attaches_fails_for_itself(tmp_path: Path) -> None:
    """A callback that watches is switched off in the process in which it fails; what decides, decides together."""
    ended = together(attached, str(tmp_path), folder=tmp_path)
    assert not any(one.error for one in ended), [one.error for one in ended]
    first, second = (one.value for one in ended)
    assert sorted(second["attached"]) == ["EarlyStopping", "Heartbeat", "Watch"]
    assert sorted(first["attached"]) == sorted([*second["attached"], "ModelSummary", "Timer"])
    assert first["steps"] == second["steps"] == 3 * 12
    assert (first["seen"], first["off"]) == (3 * 12, ["Timer"])
    assert (second["seen"], second["off"]) == (2, ["Watch"])
    assert "OSError: nowhere to send this" in second["printed"]
    assert "nowhere to send this" not in first["printed"]
    assert "not all processes have it alike: Timer is in process 0 only" in first["printed"]  # nobody waits for it
    assert (tmp_path / "heartbeat.json").exists()


def test_what_the_environment_attaches_to_decide_fails_in_all_or_ends_all(tmp_path: Path) -> None:
    """Switched off in one process alone, it would leave the others waiting for what it has to say."""
    ended = together(broken, str(tmp_path), folder=tmp_path)
    assert not any(one.error for one in ended), [one.error for one in ended]
    for everywhere, in_one in (one.value for one in ended):
        assert everywhere == "['Deciding'] after 24"
        assert "OSError: cannot decide" in in_one
        assert "in one process alone" in in_one
