"""Two processes give what one gives with the doubled batch, stop behind the same batch, and fail together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parallel_runs import PROCESSES, failed, stopped
from tests.parallel_strategies import CASES, alone, outcomes
from tests.together import together


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """What two processes gave in each case, one after the other: they are started once."""
    return [ended.value for ended in together(outcomes, *CASES, processes=PROCESSES, timeout_s=300)]


@pytest.fixture(scope="module")
def single() -> dict[str, Any]:
    """What one gives; not in this process, in which a compiled layer would leave torch's compiler behind."""
    found: dict[str, Any] = together(alone, *CASES, processes=1, timeout_s=300)[0].value
    return found


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_with_the_doubled_batch(
    pairs: list[dict[str, Any]], single: dict[str, Any], name: str
) -> None:
    case, wanted = CASES[name], single[name]
    assert not isinstance(wanted, str), wanted
    strategy = {"ddp": "DDPStrategy", "fsdp": "FSDPStrategy"}[name.partition(",")[0]]
    for rank, run in enumerate(pair[name] for pair in pairs):
        assert not isinstance(run, str), run
        assert (run["rank"], run["strategy"], run["steps"]) == (rank, strategy, wanted["steps"])
        torch.testing.assert_close(run["weights"], wanted["weights"], rtol=case.rtol, atol=case.atol)
        assert run["metrics"] == pytest.approx(wanted["metrics"], rel=max(case.rtol, 1e-5))


@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_process_stops_all_at_the_same_step(rank: int) -> None:
    first, second = (ended.value for ended in together(stopped, rank))
    assert first == second > 5


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_ends_all_and_is_told_by_all(rank: int) -> None:
    ended = together(failed, rank, timeout_s=30)
    assert f"ValueError: process {rank} cannot go on" in ended[rank].error
    assert "ProcessFailedError" not in ended[rank].error
    assert f"ProcessFailedError: Process {rank} of 2 failed" in ended[1 - rank].error
    assert f"ValueError: process {rank} cannot go on" in ended[1 - rank].error
