"""`torchrun --max-restarts`: a process is killed, all begin again, and end as if nothing had been."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch
from tests.elastic_script import train
from tests.together import together

SCRIPT = Path(__file__).with_name("elastic_script.py")


def torchrun(port: int, folder: str) -> None:
    """Be one of two machines, each with an agent and a process of the run."""
    from torch.distributed.run import main

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    # Else torch keeps what processes tell each other apart by each machine's number of restarts, which differ by now.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    main(
        [
            "--nnodes=2", "--nproc-per-node=1", "--max-restarts=2", "--rdzv-backend=c10d", "--rdzv-id=here",
            f"--rdzv-endpoint=localhost:{port}", "--local-addr=localhost", str(SCRIPT), folder,
        ]
    )  # fmt: skip


def test_a_restarted_run_on_two_machines_ends_bit_equal_to_one_that_nothing_cut(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("cut", "whole"):
        (tmp_path / name).mkdir()
    assert [ended.error for ended in together(torchrun, port, str(tmp_path / "cut"), timeout_s=50)] == ["", ""]
    whole = [ended.value for ended in together(train, folder=tmp_path / "whole")]
    cut: list[Any] = [torch.load(tmp_path / "cut" / f"{rank}.pt") for rank in range(2)]
    assert [one.pop("place") for one in cut] == [(0, 0, 0, 2, 1, 2), (1, 0, 1, 2, 1, 2)]
    assert [one.pop("place") for one in whole] == [(0, 0, 0, 2, 2, 1), (1, 1, 0, 2, 2, 1)]
    assert [one.pop("from") for one in cut] == ["epoch=1-step=8.ckpt"] * 2
    assert [one.pop("from") for one in whole] == [None] * 2
    for one in cut:
        torch.testing.assert_close(one, whole[0], rtol=0, atol=0)
