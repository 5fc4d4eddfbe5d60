"""Scripts with ``Trainer(devices=2)``: real programs, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCRIPT = "tests/launched_script.py"


def launched(how: str, folder: Path, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script from the repository's root. Its output ends when the last process that writes there has ended."""
    command = [sys.executable, *before, how, str(folder)]
    without = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "LEYDEN_LAUNCHED")}
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # torch's store warns where no name server knows this machine
    return subprocess.run(
        command, cwd=ROOT, env={**without, **quiet, **environment}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def found(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_a_script_is_started_once_for_each_device_as_it_was_started_itself(tmp_path: Path) -> None:
    """As a module, with an option of the interpreter, from another folder than it trains in, with two trainers."""
    ended = launched("well", tmp_path, "-W", "error", "-m", "tests.launched_script", MINE="mine")
    assert (ended.returncode, ended.stderr) == (0, "`Trainer.fit` stopped: `max_epochs=1` reached.\n")
    assert sorted(ended.stdout.splitlines()) == ["process 0 is done", "process 1 is done"]
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    first, second = found(tmp_path)
    assert (first["place"], second["place"]) == ([0, 0, 2, 2, 1], [1, 1, 2, 2, 1])
    for process in (first, second):
        del process["place"]
        assert process == {
            "argv": ["well"],
            "warnings": ["error"],
            "cwd": str(tmp_path),
            "MASTER_ADDR": "localhost",
            "OMP_NUM_THREADS": str(threads),
            "LEYDEN_SEED": "3",
            "MINE": "mine",
            "second": 2,
            "steps": first["steps"],
        }
    assert list(tmp_path.parent.glob("leyden_launch_*")) == []


def test_a_process_that_fails_ends_the_other_too_and_is_the_first_to_say_why(tmp_path: Path) -> None:
    """Also where the other would stay in a hook for ever."""
    ended = launched("error", tmp_path, SCRIPT)
    lines = ended.stderr.splitlines()
    own = [at for at, line in enumerate(lines) if line.startswith("[rank1]: ")]
    assert (ended.returncode, lines[-1]) == (1, "Process 1 of 2 failed, with exit code 1.")
    assert lines[0] == "[rank1]: Traceback (most recent call last):"
    assert lines[own[-1] - 1] == "[rank1]: ValueError: process 1 cannot go on"
    told = lines.index("Process 1 of 2 failed, so that process 0 cannot go on. What process 1 raised:")
    assert own[-1] < told < lines.index("ValueError: process 1 cannot go on") < len(lines) - 1
    waits = lines.index("Process 0 still waits, and is ended. Where its threads are:", told)
    assert any("in on_train_batch_start" in line for line in lines[waits:])


def test_sigterm_to_the_script_stops_its_processes_at_the_same_step(tmp_path: Path) -> None:
    ended = launched("SIGTERM", tmp_path, SCRIPT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signal.SIGTERM, "", "")
    first, second = found(tmp_path)
    assert first["steps"] == second["steps"] >= 3


def test_processes_end_with_a_script_that_is_killed(tmp_path: Path) -> None:
    ended = launched("SIGKILL", tmp_path, SCRIPT)
    assert ended.returncode == -signal.SIGKILL
    assert "has lost the store at which the 2 processes met" in ended.stderr
    assert len(found(tmp_path)) == 2
