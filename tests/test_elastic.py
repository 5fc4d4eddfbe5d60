"""`torchrun --max-restarts`: a process is killed, all begin again, and end as if nothing had been."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.elastic_script import train
from tests.together import free_port, together

SCRIPT = Path(__file__).with_name("elastic_script.py")


def torchrun(port: int, folder: str) -> None:
    """Be one of two machines, each with an agent and a process of the run."""
    # Else torch keeps what processes tell each other apart by each machine's number of restarts, which differ by now.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    run_script(
        folder, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=here",
        f"--rdzv-endpoint=localhost:{port}", "--local-addr=localhost",
    )  # fmt: skip


def torchrun_of_one_machine(port: int, folder: str) -> None:
    """Be the one machine, with an agent and two processes."""
    run_script(folder, "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}")


def run_script(folder: str, *options: str) -> None:
    from torch.distributed.run import main

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    main(["--max-restarts=2", *options, str(SCRIPT), folder])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run of two processes has in the end that nothing cut."""
    found = [ended.value for ended in together(train, folder=tmp_path_factory.mktemp("whole"))]
    assert [one.pop("place") for one in found] == [(0, 0, 0, 2, 2, 1), (1, 1, 0, 2, 2, 1)]
    assert [one.pop("from") for one in found] == [None] * 2
    return found[0]


@pytest.mark.parametrize(
    ("agent", "machines", "places"),
    [
        (torchrun, 2, [(0, 0, 0, 2, 1, 2), (1, 0, 1, 2, 1, 2)]),
        (torchrun_of_one_machine, 1, [(0, 0, 0, 2, 2, 1), (1, 1, 0, 2, 2, 1)]),
    ],
)
def test_a_restarted_run_ends_bit_equal_to_one_that_nothing_cut(
    tmp_path: Path, whole: Any, agent: Any, machines: int, places: list[Any]
) -> None:
    ended = together(agent, free_port(), str(tmp_path), processes=machines, timeout_s=100)
    assert [one.error for one in ended] == [""] * machines
    cut: list[Any] = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [one.pop("place") for one in cut] == places
    assert [one.pop("from") for one in cut] == ["epoch=1-step=8.ckpt"] * 2
    for one in cut:
        torch.testing.assert_close(one, whole, rtol=0, atol=0)
