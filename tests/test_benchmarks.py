"""The benchmarks run, and say what they are meant to say; the figures themselves are no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

_ROOT = Path(__file__).parents[1]


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_table_has_a_row_for_each_case_asked_for() -> None:
    cases = ("bare", "log-5", "predict")
    out = _run("--frameworks", "leyden", "--stretches", "5", "--steps-only", "--no-file", "--cases", *cases)
    rows = [line for line in out.splitlines() if "≤" in line]
    assert [row.split("  ")[0].split(" (by hand")[0] for row in rows] == [
        "bare step",
        "+ five self.log (step and epoch), CSVLogger",
        "predict",
        "Python calls a step, bare",
    ]
    assert all("reached" in row or "MISSED" in row for row in rows)


def test_profile_lists_the_calls_of_a_step_beside_those_by_hand() -> None:
    lines = _run("profile", "log-1").splitlines()
    backward = next(line for line in lines if "Tensor.backward" in line).split()
    assert backward[:2] == ["1.00", "1.00"]
    journal = next(line for line in lines if "Journal.log " in line).split()
    assert journal[:3] == ["1.00", "0.00", "+"]


def test_the_production_run_is_measured_over_the_loop_by_hand() -> None:
    out = _run("--frameworks", "leyden", "--no-file", "production", "--rounds", "1")
    cpu, clock = out.splitlines()[-2:]
    assert cpu.startswith("production run on the digits")
    assert "≤ 1.20" in cpu
    assert "reached" in cpu or "MISSED" in cpu
    assert clock.lstrip().startswith("by the clock")


def test_memory_is_looked_at_early_and_late() -> None:
    seen = json.loads(_run("memory-worker", "--steps", "1000").splitlines()[-1])
    assert seen["steps"] == 1000
    assert 0 < seen["early_kib"] <= seen["late_kib"] + 1024


def test_discovery_is_timed_in_fresh_processes() -> None:
    discovered = json.loads(_run("discovery-worker", "discovered").splitlines()[-1])
    given = json.loads(_run("discovery-worker", "given", *discovered["callbacks"]).splitlines()[-1])
    assert given["callbacks"] == discovered["callbacks"]
    assert all(seen[when] > 0 for seen in (discovered, given) for when in ("first_ms", "further_ms"))


def test_each_way_to_make_a_checkpoint_is_measured_over_a_plain_save() -> None:
    command = [sys.executable, "-m", "benchmarks.checkpoints", "--parameters", "5000", "--rounds", "1"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = {line[:36].strip(): line[36:].split() for line in done.stdout.splitlines()[2:] if line}
    assert rows.pop("over torch.save") == ["clock", "CPU"]
    assert rows.pop("torch.save") == ["1.000", "1.000"]
    assert list(rows) == [
        "copy in memory", "ModelCheckpoint()", "ModelCheckpoint(asynchronous=True)", "until its file is whole",
        "asynchronous over copy in memory",
    ]  # fmt: skip
    assert all(float(ratio) > 0 for ratios in rows.values() for ratio in ratios)


def test_a_step_on_a_device_is_timed_over_that_of_the_loop_by_hand() -> None:
    """On the CPU here, by the same loops, without the graphs that are CUDA's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    turns = ("--steps", "5", "--stretches", "2", "--cases", "kernels-log-1", "graphs", "16-mixed")
    command = [sys.executable, "-m", "benchmarks.cuda", "--accelerator", device, "--no-file", *turns]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    titles = [line.split("  ")[0] for line in done.stdout.splitlines() if "µs" in line]
    graphs = ["CUDA graphs"] if device == "cuda" else []
    assert titles == ["kernels, a value logged", *graphs, "kernels, 16-mixed"]
