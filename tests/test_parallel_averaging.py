"""Averages of weights in two processes: whole or in shards, they are those of one, also where a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parallel_averaging import CUTS, KINDS, averaged, everything
from tests.parallel_runs import PROCESSES
from tests.together import together

from leyden.state import storage


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    folder = tmp_path_factory.mktemp("averaging")
    ended = together(everything, str(folder), processes=PROCESSES, timeout_s=300)
    assert not any(one.error for one in ended), [one.error for one in ended]
    return [one.value for one in ended], folder


Seen = tuple[list[dict[str, Any]], Path]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_that_of_one_process(seen: Seen, kind: str, strategy: str, tmp_path: Path) -> None:
    alone = averaged("auto", str(tmp_path))[kind]
    for run in seen[0]:
        torch.testing.assert_close(run["whole"][strategy][kind]["weights"], alone["weights"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("strategy", "saved_by"), [("ddp", "ddp"), ("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_with_its_average(seen: Seen, kind: str, strategy: str, saved_by: str) -> None:
    rtol, atol = (0.0, 0.0) if strategy == saved_by else (1e-5, 1e-6)
    for run in seen[0]:
        whole = run["whole"][saved_by][kind]
        for cut in CUTS:
            torch.testing.assert_close(run["resumed"][strategy, saved_by][kind, cut], whole, rtol=rtol, atol=atol)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_of_shards_hold_the_average_whole(seen: Seen, kind: str) -> None:
    for cut in CUTS:
        of_ddp, of_fsdp = (storage.load(seen[1] / strategy / kind / f"{cut}.ckpt") for strategy in ("ddp", "fsdp"))
        for part in ("state_dict", "current_model_state", "averaging_state"):
            torch.testing.assert_close(of_fsdp.get(part), of_ddp.get(part), rtol=1e-5, atol=1e-6)
        assert of_fsdp["callbacks"].keys() == of_ddp["callbacks"].keys()


def test_batch_norm_has_the_statistics_of_all_processes_batches(seen: Seen) -> None:
    for run in seen[0]:
        for found, expected in run["statistics"]:
            torch.testing.assert_close(list(found), list(expected), rtol=1e-4, atol=1e-6)
