"""``python -m benchmarks.storage_memory``: the peak memory of a save, beside that of a plain ``torch.save``.

A model of 100 M parameters and its Adam state (1.2 GB) are made in a process of their own, which then saves them. Linux
alone lets the high-water mark of a process be set back, so that what comes before the save does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its thread pool reads it once

import torch
from torch import nn

from benchmarks.malloc import take_memory_anew
from leyden.state import storage

LIMIT = 1.05
"""The peak may be 5 % above that of a plain ``torch.save``."""


def main() -> None:
    """Measure both in turn, print the ratio, and keep the figures under ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage_memory", description=__doc__)
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--no-file", action="store_true", help="write no file under benchmarks/results")
    parser.add_argument("--worker", choices=("torch", "leyden"), help="measure one save in this process")
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(arguments.worker, arguments.parameters)))
        return
    runs: dict[str, list[dict[str, float]]] = {"torch": [], "leyden": []}
    for _ in range(arguments.repetitions):
        for name, measured in runs.items():
            measured.append(_in_fresh_process(name, arguments.parameters))
    median = {
        name: {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        for name, measured in runs.items()
    }
    ratio = median["leyden"]["peak_kib"] / median["torch"]["peak_kib"]
    result = {"parameters": arguments.parameters, "torch": torch.__version__, "runs": runs, "median": median}
    result |= {"peak_ratio": ratio, "limit": LIMIT}
    for name, figures in median.items():
        added = figures["peak_kib"] - figures["before_kib"]
        print(f"{name}: {figures['before_kib']:,.0f} KiB before, {added:,.0f} KiB more, {figures['seconds']:.1f} s")
    print(f"peak memory of a save: {ratio:.4f} of a plain torch.save (at most {LIMIT})")
    if not arguments.no_file:
        name = datetime.now(UTC).strftime("storage_memory-%Y-%m-%dT%H%M%SZ.json")
        (Path(__file__).parent / "results" / name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if ratio > LIMIT:
        raise SystemExit(1)


def measure(name: str, parameters: int) -> dict[str, float]:
    """Save once in this process; memory in KiB, time in seconds."""
    take_memory_anew()
    content = _content(parameters)
    save: Callable[[Any, str], None] = torch.save if name == "torch" else storage.save
    with tempfile.TemporaryDirectory() as folder:
        save({"warm": torch.zeros(3)}, f"{folder}/warm.ckpt")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _peak_kib()
        start = perf_counter()
        save(content, f"{folder}/a.ckpt")
        seconds = perf_counter() - start
        return {"before_kib": before, "peak_kib": _peak_kib(), "seconds": seconds}


def _content(parameters: int) -> dict[str, Any]:
    layers, width = 25, int((parameters / 25) ** 0.5)
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}


def _peak_kib() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found is not None
    return int(found[1])


def _in_fresh_process(name: str, parameters: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.storage_memory", "--worker", name, "--parameters", str(parameters)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


if __name__ == "__main__":
    main()
