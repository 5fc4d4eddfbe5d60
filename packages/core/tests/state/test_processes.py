"""What is each process's own in a checkpoint: found, put back, and the rule for another number of processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.state.processes import differences, for_this_process, made_alone, own_part
from leyden.state.rng import collect_rng


def checkpoint(rank: int, done: int = 0) -> dict[str, Any]:
    """What process `rank` makes."""
    torch.manual_seed(rank)
    record = {"key": ("training_step", "loss", None), "values": {"count": done, "number": float(rank)}}
    return {
        "state_dict": {"weight": torch.ones(2), "running_mean": torch.full((2,), float(rank))},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.full((2,), float(rank))}}}],
        "rng": collect_rng(),
        "metrics": {"stage": "train", "records": [record]},
        "gradients": {"weight": torch.full((2,), float(rank))},
        "callbacks": {"Seen": {"rows": [rank]}, **({"Only": {"here": True}} if rank == 0 else {})},
        "loops": {"fit_loop": {"batches_done": done, "place": {"drawn": torch.tensor([rank])}}},
    }


def of(processes: int, done: int = 0) -> dict[str, Any]:
    """What the first of so many processes writes."""
    parts = [own_part(checkpoint(rank, done)) for rank in range(processes)]
    return {**checkpoint(0, done), "processes": [differences(parts[0], part) for part in parts]}


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_has_its_own_back(rank: int) -> None:
    taken = for_this_process(of(3, done=2), rank, 3, goes_on=True)
    own = {**checkpoint(rank, done=2), "optimizer_states": checkpoint(0)["optimizer_states"]}  # of all alike
    assert str(taken) == str(own)


def test_what_is_alike_is_not_written_again() -> None:
    [first, second] = of(2)["processes"]
    assert first == {"changed": [], "gone": []}
    assert [".".join(map(str, path)) for path, _ in second["changed"]] == [
        "state_dict.running_mean", "rng.torch", "metrics.records", "gradients.weight", "callbacks.Seen.rows",
        "loops.fit_loop.place.drawn",
    ]  # fmt: skip
    assert second["gone"] == [["callbacks", "Only"]]


def test_large_tensors_are_alike_but_where_processes_are_bound_to_differ() -> None:
    large = torch.ones(2**19)
    part = own_part({"callbacks": {"Kept": {"copy": large, "all": [large]}}, "gradients": {"weight": large}})
    assert part["callbacks"] == {"Kept": {"copy": ..., "all": ...}}
    assert part["gradients"]["weight"] is not ...
    [_, second] = [differences(part, one) for one in (part, own_part({"callbacks": {"Kept": {"copy": torch.ones(1)}}}))]
    assert ["callbacks", "Kept", "copy"] not in [path for path, _ in second["changed"]]


def test_another_number_takes_the_first_ones_and_begins_running_sums_anew() -> None:
    with pytest.warns(UserWarning, match=r"of 2 process\(es\) goes on with 3 within an epoch: as many batches .*\(2\)"):
        taken = [for_this_process(of(2, done=2), rank, 3, goes_on=True) for rank in range(3)]
    for rank, one in enumerate(taken):
        assert one["metrics"]["records"] == []
        assert one["callbacks"]["Seen"] == {"rows": [0]}
        assert one["gradients"]["weight"].tolist() == [0.5, 0.5]
        if rank < 2:
            assert torch.equal(one["rng"]["torch"], checkpoint(rank)["rng"]["torch"])
    assert len({one["rng"]["torch"].numpy().tobytes() for one in taken}) == 3
    again = for_this_process(of(2), 2, 3, goes_on=True)  # between epochs nothing is lost, and nothing said
    assert torch.equal(again["rng"]["torch"], taken[2]["rng"]["torch"])


def test_a_checkpoint_of_one_process_alone_is_told_of() -> None:
    alone = {**checkpoint(0), "processes": made_alone(2)}
    with pytest.warns(UserWarning, match="made by one of 2 processes alone, after an error"):
        second = for_this_process(alone, 1, 2, goes_on=True)
    assert not torch.equal(second["rng"]["torch"], alone["rng"]["torch"])
    assert for_this_process(alone, 1, 2, goes_on=False)["callbacks"] == alone["callbacks"]
