"""Two processes give what one gives with the doubled batch, stop behind the same batch, and fail together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parallel_runs import PROCESSES, failed, stopped
from tests.parallel_strategies import CASES, outcomes
from tests.together import together


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, Any]]:
    """What two processes gave in each case, one after the other: they are started once."""
    return [ended.value for ended in together(outcomes, *CASES, processes=PROCESSES, timeout_s=300)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_with_the_doubled_batch(pairs: list[dict[str, Any]], name: str) -> None:
    case, alone = CASES[name], outcomes(name)[name]
    strategy = {"ddp": "DDPStrategy", "fsdp": "FSDPStrategy"}[name.partition(",")[0]]
    for rank, run in enumerate(pair[name] for pair in pairs):
        assert not isinstance(run, str), run
        assert (run["rank"], run["strategy"], run["steps"]) == (rank, strategy, alone["steps"])
        torch.testing.assert_close(run["weights"], alone["weights"], rtol=case.rtol, atol=case.atol)
        assert run["metrics"] == pytest.approx(alone["metrics"], rel=max(case.rtol, 1e-5))


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
