"""Two processes, joined by gloo: the first decides and writes, both know, and no failure leaves one of them waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leyden.state import storage

_SCRIPT = Path(__file__).with_name("processes.py")


Seen = tuple[dict[str, Any], dict[str, Any], Path]
CASES = ["together", *(f"torn-{failing}-{asynchronous}" for failing in (0, 1) for asynchronous in (0, 1))]


@pytest.fixture(scope="module")
def every_case(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What the first and the second saw in each case, and its folder."""
    folder = tmp_path_factory.mktemp("two")
    for case in CASES:
        (folder / case).mkdir()
    environment = {**os.environ, "LEYDEN_CALLBACKS": "off", "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(_SCRIPT), *CASES]
    processes = [subprocess.Popen(command, cwd=folder, env={**environment, "RANK": str(rank)}) for rank in (0, 1)]
    assert [process.wait(250) for process in processes] == [0, 0]
    return {case: _seen(folder / case) for case in CASES}


def _seen(folder: Path) -> Seen:
    first, second = (json.loads((folder / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    return first, second, folder


@pytest.fixture
def seen(every_case: dict[str, Seen]) -> Seen:
    return every_case["together"]


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
    error, beside = told[1 - failing]
    assert error.startswith(
        f"ProcessFailedError: Process {failing} of 2 failed as it gathered its part of a checkpoint"
    )
    assert f"ValueError: rank {failing} cannot" in error
    assert beside == ""


def test_a_metric_that_is_missing_stops_both(seen: Seen) -> None:
    for process in seen[:2]:
        assert (
            "ModelCheckpoint(monitor='none') has a checkpoint to rank, but no 'none' was logged" in process["missing"]
        )


def test_the_clock_of_the_first_says_when(seen: Seen) -> None:
    first, second, folder = seen
    assert (first["clocked"], second["clocked"]) == (["", [f"clocked/step={n}.ckpt" for n in (2, 4, 6)]], ["", []])
    assert len(os.listdir(folder / "clocked")) == 3


@pytest.mark.parametrize("asynchronous", [0, 1])
@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_is_torn_out_of_training_waits_for_nobody(
    every_case: dict[str, Seen], failing: int, asynchronous: int
) -> None:
    """It ends, and the other, which lost it, ends too; the first saves what there is, whichever of them failed."""
    *processes, folder = every_case[f"torn-{failing}-{asynchronous}"]
    errors = [process["torn"][0] for process in processes]
    assert errors[failing] == f"RuntimeError: process {failing} fails"
    assert errors[1 - failing].startswith("RuntimeError: ")
    assert errors[1 - failing] != errors[failing]
    assert processes[1]["torn"][1] == []
    at = 2 + failing  # the first, where it does not fail, goes on to the end of a step, at which it needs the second
    saved = ["exception/on_exception.ckpt", f"late/step={at}.ckpt", "model/step=1.ckpt", "model/step=2.ckpt"]
    assert sorted(processes[0]["torn"][1]) == saved
    assert [storage.load(folder / path)["global_step"] for path in saved] == [at, at, 1, 2]
