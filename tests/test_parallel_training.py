"""Two processes give what one gives with the doubled batch, stop behind the same batch, and fail together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parallel_runs import Adversaries, Net, Unfreezing, failed, fit, stopped
from tests.together import together

RUNS: list[tuple[type[Net], dict[str, Any]]] = [
    (Net, {}),
    (Net, {"accumulate_grad_batches": 2}),
    (Net, {"accumulate_grad_batches": 4, "gradient_clip_val": 0.05}),
    (Unfreezing, {}),
]


@pytest.mark.parametrize(("kind", "trainer"), RUNS, ids=str)
@pytest.mark.parametrize(("strategy", "name"), [("auto", "DDPStrategy"), ("fsdp", "FSDPStrategy")])
def test_two_processes_are_one_with_the_doubled_batch(
    strategy: str, name: str, kind: type[Net], trainer: dict[str, Any]
) -> None:
    alone = fit("auto", trainer, kind)
    runs = [ended.value for ended in together(fit, strategy, trainer, kind)]
    assert [(run["rank"], run["strategy"], run["steps"]) for run in runs] == [
        (0, name, alone["steps"]),
        (1, name, alone["steps"]),
    ]
    for run in runs:
        torch.testing.assert_close(run["weights"], alone["weights"], rtol=1e-5, atol=1e-7)
        assert run["metrics"] == pytest.approx(alone["metrics"], rel=1e-5)


def test_two_optimizers_stepped_by_hand_are_one_with_the_doubled_batch() -> None:
    alone = fit("auto", {}, Adversaries)
    for ended in together(fit, "ddp", {}, Adversaries):
        assert ended.value["steps"] == alone["steps"]
        torch.testing.assert_close(ended.value["weights"], alone["weights"], rtol=1e-5, atol=1e-7)


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
