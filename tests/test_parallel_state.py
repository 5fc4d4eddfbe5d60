"""Checkpoints of several processes: exact resume with as many, and the same weights with another number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parallel_runs import ACCELERATOR, PROCESSES
from tests.parallel_state import WINDOWS, cut_and_resumed, go_on_each, save_each
from tests.together import together

from leyden.state import storage


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "sharded", "sharded, by hand"])
def test_two_processes_go_on_exactly_from_wherever_they_were_cut(strategy: str, tmp_path: Path) -> None:
    # 6 batches an epoch, in windows of 4 and 2: within a window, between windows, at an epoch's end, in the second
    by_hand = "by hand" in strategy  # windows of 2
    trainer, cuts = ({}, (1, 4, 9)) if by_hand else (WINDOWS, (2, 4, 6, 9))
    ended = together(
        cut_and_resumed, strategy, {**trainer, "accelerator": ACCELERATOR}, str(tmp_path), cuts, processes=PROCESSES
    )
    for one in ended:
        assert not one.error, one.error
        uncut, *resumed = one.value
        for run in resumed:
            taken = len(run["losses"])
            assert run.pop("losses") == uncut["losses"][-taken:]
            torch.testing.assert_close(run, {k: v for k, v in uncut.items() if k != "losses"}, rtol=0, atol=0)
    for part in ("seen", "drawn"):
        assert len({str(one.value[0][part]) for one in ended}) == PROCESSES


def test_a_run_goes_on_with_another_number_and_another_strategy(tmp_path: Path) -> None:
    cuts = (2, 6)  # within an accumulation window, at the end of an epoch
    [alone] = save_each(["single_device"], str(tmp_path), cuts)
    two = [ended.value for ended in together(save_each, ["ddp", "fsdp", "sharded"], str(tmp_path), cuts)]
    kinds = ["single_device", "ddp", "fsdp", "sharded"]
    paths = [str(tmp_path / kind / f"{done}.ckpt") for kind in kinds for done in cuts]
    on_two = [
        (strategy, path) for strategy in ("ddp", "fsdp", "sharded") for path in paths if f"/{strategy}/" not in path
    ]
    assert two[0][0]["steps"] == alone["steps"]

    for ended in together(go_on_each, on_two):
        assert not ended.error, ended.error
        for (_, path), (start, end) in zip(on_two, ended.value, strict=True):
            _check(path, start, end, alone)
    with pytest.warns(UserWarning, match="goes on with 1 within an epoch: as many batches"):
        on_one = go_on_each([("auto", path) for path in paths[2:]])
    for path, (start, end) in zip(paths[2:], on_one, strict=True):
        _check(path, start, end, alone)


def _check(path: str, start: dict[str, Any], end: dict[str, Any], alone: dict[str, Any]) -> None:
    """What a run goes on with is what the file has, bit for bit; it ends as one with the doubled batch does."""
    saved = storage.load(path)
    assert start["weights"].keys() == saved["state_dict"].keys()
    for name, weight in start["weights"].items():
        assert torch.equal(weight, saved["state_dict"][name]), (path, name)
    for index, state in enumerate(start["optimizer"]):
        torch.testing.assert_close(state, saved["optimizer_states"][0]["state"].get(index, {}), rtol=0, atol=0)
    for part in ("weights", "optimizer", "lr", "steps"):
        torch.testing.assert_close(end[part], alone[part], rtol=1e-5, atol=1e-6)
    assert end["metrics"]["val_loss"] == pytest.approx(alone["metrics"]["val_loss"], rel=1e-5)
