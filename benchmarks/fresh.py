"""What only a fresh process can tell: the CPU time of an import, and memory over a long run."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from torch import Tensor

from benchmarks.cases import Case, Target
from benchmarks.handwritten import make_batches

__all__ = ["ImportTime", "Memory", "import_time", "long_run_memory", "memory_in_fresh_process"]

_LONG_RUN = Case("memory", "100,000 steps, one metric on_step and on_epoch", Target(1.0), logged=1)


@dataclass(frozen=True, slots=True)
class ImportTime:
    """CPU seconds of a process that imports a module, beside one that imports torch only."""

    torch_s: float
    module_s: float
    ratio: float
    repetitions: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory and Python's allocated blocks after 20 % and at the end of a long run."""

    steps: int
    early_kib: int
    late_kib: int
    early_blocks: int
    late_blocks: int

    @property
    def growth_kib(self) -> int:
        return self.late_kib - self.early_kib


def import_time(module: str, repetitions: int = 7) -> ImportTime:
    """Processes with ``import torch`` and ``import module`` in turn; the ratio is the median over neighbours."""
    with tempfile.TemporaryDirectory() as compiled:
        _cpu_of_import(module, compiled)  # compiled files and the disk's cache are there from now on
        pairs = [(_cpu_of_import("torch", compiled), _cpu_of_import(module, compiled)) for _ in range(repetitions)]
    alone, with_it = zip(*pairs, strict=True)
    return ImportTime(min(alone), min(with_it), statistics.median(b / a for a, b in pairs), repetitions)


def _cpu_of_import(module: str, compiled: str) -> float:
    """CPU seconds of a process with compiled files, as pip makes them, whatever the environment says of those."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = compiled
    process = subprocess.Popen([sys.executable, "-c", f"import {module}"], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"`import {module}` failed in a fresh process.")
    return usage.ru_utime + usage.ru_stime


def memory_in_fresh_process(steps: int = 100_000) -> Memory:
    """:func:`long_run_memory` of Leyden where nothing ran before."""
    command = [sys.executable, "-m", "benchmarks", "memory-worker", "--steps", str(steps)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit("The long run of Leyden failed, as shown above.")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def long_run_memory(steps: int) -> str:
    """Train one epoch of ``steps`` steps with an epoch metric and a CSV log; the :class:`Memory` as JSON."""
    from benchmarks import leyden_loop

    batches = _Watched(steps)
    with tempfile.TemporaryDirectory() as folder:
        leyden_loop.run(_LONG_RUN, batches, folder)
    (early_kib, early_blocks), *_, (late_kib, late_blocks) = batches.seen
    return json.dumps(asdict(Memory(steps, early_kib, late_kib, early_blocks, late_blocks)))


class _Watched:
    """Serves ``steps`` batches in fifths and looks at the memory after each."""

    def __init__(self, steps: int) -> None:
        self._fifth = make_batches(100) * (steps // 500)
        self.seen: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 5 * len(self._fifth)

    def __iter__(self) -> Iterator[Tensor]:
        return chain.from_iterable(self._served())

    def _served(self) -> Iterator[list[Tensor]]:
        for _ in range(5):
            yield self._fifth
            self.seen.append((_resident_kib(), sys.getallocatedblocks()))


def _resident_kib() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * (resource.getpagesize() // 1024)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak
