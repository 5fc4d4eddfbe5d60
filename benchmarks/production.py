"""A whole run as in production, watched by everything, over a loop by hand that trains, validates and saves the same.

Both are run in turn, each in a new folder, and each round gives a ratio of process CPU time (of all threads) and one of
the clock. The clock holds what the disk takes to flush checkpoints, which the loop by hand does not ask of it and which
on a shared disk is anything; so the target is on CPU time, as everywhere here. Imports and a first run are in neither.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.digits import Loader, loaders, train_by_hand
from benchmarks.measure import loop_of

__all__ = ["Production", "measure_production", "production_in_process"]

_Run = Callable[[Path, Loader, Loader], None]


@dataclass(frozen=True, slots=True)
class Production:
    """Medians, ms: of the loop by hand, of the framework; ratios are those of neighbouring runs."""

    framework: str
    version: str
    handwritten_cpu_ms: float
    cpu_ms: float
    cpu_ratio: float
    handwritten_wall_ms: float
    wall_ms: float
    wall_ratio: float
    rounds: int


def measure_production(framework: str, rounds: int) -> Production:
    """In a fresh process on a terminal of its own, where there are such: a bar draws as it would for a person."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks", "production-worker", framework]
        command += ["--into", str(path), "--rounds", str(rounds)]
        code, shown = _on_a_terminal(command)
        if code:
            raise SystemExit(f"The production run of {framework} failed:\n{shown[-3000:]}")
        return Production(**json.loads(path.read_text()))


def production_in_process(framework: str, rounds: int, into: Path) -> None:
    """Run both in turn; the :class:`Production` goes to ``into`` as JSON."""
    torch.set_num_threads(1)
    loop = loop_of(framework)
    train, val = loaders()
    pairs = [(_timed(train_by_hand, train, val), _timed(loop.train_digits, train, val)) for _ in range(rounds + 1)][1:]
    cpu_by_hand, cpu = zip(*((by_hand[0], measured[0]) for by_hand, measured in pairs), strict=True)
    wall_by_hand, wall = zip(*((by_hand[1], measured[1]) for by_hand, measured in pairs), strict=True)
    figures = Production(
        framework,
        loop.VERSION,
        statistics.median(cpu_by_hand),
        statistics.median(cpu),
        statistics.median(b / a for a, b in zip(cpu_by_hand, cpu, strict=True)),
        statistics.median(wall_by_hand),
        statistics.median(wall),
        statistics.median(b / a for a, b in zip(wall_by_hand, wall, strict=True)),
        rounds,
    )
    into.write_text(json.dumps(asdict(figures)))


def _timed(run: _Run, train: Loader, val: Loader) -> tuple[float, float]:
    """CPU time and the clock's, ms, of a run in a new folder; the same random numbers each time."""
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        gc.collect()
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        run(Path(folder), train, val)
        return (time.process_time_ns() - cpu) / 1e6, (time.perf_counter_ns() - wall) / 1e6


def _on_a_terminal(command: list[str]) -> tuple[int, str]:
    """Run a command whose output goes to a pseudo-terminal, or to a pipe on Windows; what it showed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "TERM": "xterm-256color"}
    try:
        import pty
    except ImportError:
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    ours, theirs = pty.openpty()
    shown = bytearray()

    def drain() -> None:
        try:
            while piece := os.read(ours, 65536):
                shown.extend(piece)
        except OSError:  # the other end was closed
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    try:
        code = subprocess.run(command, check=False, env=environment, stdout=theirs, stderr=theirs).returncode
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)
    return code, shown.decode(errors="replace")
