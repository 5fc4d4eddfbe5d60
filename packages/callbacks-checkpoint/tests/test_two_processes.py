"""Two processes, joined by gloo: the first decides and writes, both know, and no failure leaves one of them waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "LEYDEN_CALLBACKS": "off", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    environment["RENDEZVOUS"] = f"file://{folder}/rendezvous"
    processes = [
        subprocess.Popen([sys.executable, str(_SCRIPT)], cwd=folder, env={**environment, "RANK": str(rank)})
        for rank in (0, 1)
    ]
    assert [process.wait(200) for process in processes] == [0, 0]
    first, second = (json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    return first, second, folder


Seen = tuple[dict[str, Any], dict[str, Any], Path]


@pytest.mark.parametrize("kind", ["waiting", "asynchronous"])
def test_the_first_decides_and_writes_and_both_know(seen: Seen, kind: str) -> None:
    first, second, folder = seen
    written = [f"{kind}/{name}" for epoch in range(3) for name in (f"epoch={epoch}.ckpt", "last.ckpt")]
    assert first[kind] == ["", ["epoch=2.ckpt"], written]
    assert second[kind] == ["", ["epoch=2.ckpt"], []]
    assert sorted(os.listdir(folder / kind)) == ["epoch=2.ckpt", "last.ckpt"]


@pytest.mark.parametrize("kind", ["waiting", "asynchronous"])
def test_a_full_disk_stops_both_or_neither(seen: Seen, kind: str) -> None:
    first, second, _ = seen
    assert first[f"full-{kind}"][0].startswith("OSError: [Errno 28] No space left on device")
    assert second[f"full-{kind}"][0].startswith(
        "OSError: The first process could not save: OSError: [Errno 28] No space left on device"
    )
    assert first[f"full-{kind}"][1] == second[f"full-{kind}"][1] == []
    assert first[f"full-{kind}-warn"] == second[f"full-{kind}-warn"] == ["", []]


@pytest.mark.parametrize("kind", ["waiting", "asynchronous"])
@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_cannot_gather_its_part_stops_both(seen: Seen, kind: str, failing: int) -> None:
    told = [process[f"wrong-{failing}-{kind}"] for process in seen[:2]]
    assert told[failing] == [f"ValueError: rank {failing} cannot", ""]
    assert told[1 - failing] == [
        "RuntimeError: ModelCheckpoint: another process failed while it gathered the checkpoint.", ""
    ]  # fmt: skip


def test_a_metric_that_is_missing_stops_both(seen: Seen) -> None:
    for process in seen[:2]:
        assert (
            "ModelCheckpoint(monitor='none') has a checkpoint to rank, but no 'none' was logged" in process["missing"]
        )


def test_one_that_is_torn_out_of_training_waits_for_nobody(seen: Seen) -> None:
    """The second fails in a step and ends; it writes nothing, and the first, which lost it, saves what there is."""
    first, second, folder = seen
    assert second["torn"] == ["RuntimeError: the second process fails", []]
    assert first["torn"][0].startswith("RuntimeError: ")
    assert first["torn"][1] == ["torn/step=2.ckpt", "torn/step=4.ckpt"]
    assert sorted(os.listdir(folder / "torn")) == ["step=2.ckpt", "step=4.ckpt"]
