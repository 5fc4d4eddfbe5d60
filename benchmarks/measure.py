"""One framework, measured in a process of its own: what another one imports or patches is not in its figures."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from benchmarks.calls import calls_per_step, total
from benchmarks.cases import CASES, Case
from benchmarks.handwritten import loop_for
from benchmarks.interleave import InterleavedBatches, Timing

__all__ = ["FRAMEWORKS", "Figures", "installed", "loop_of", "measure", "measure_in_process"]

# By how much shorter a run is where a step is long: its medians need no more.
FRAMEWORKS = {"leyden": 1, "lightning": 4, "ignite": 2}


@dataclass(slots=True)
class Figures:
    """What was measured of one framework: timings and Python calls a step by the name of the case."""

    framework: str
    version: str
    timings: dict[str, Timing] = field(default_factory=dict)
    calls: dict[str, float] = field(default_factory=dict)


def installed(framework: str) -> bool:
    """Whether the framework can be imported here."""
    return importlib.util.find_spec(framework) is not None


def loop_of(framework: str) -> ModuleType:
    """The module that runs the cases by this framework."""
    return importlib.import_module(f"benchmarks.{framework}_loop")


def measure(framework: str, names: Iterable[str], stretches: int) -> Figures:
    """In a fresh process: see :func:`measure_in_process`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks", "worker", framework, "--into", str(path)]
        command += ["--stretches", str(stretches), "--cases", *names]
        if subprocess.run(command, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode:
            raise SystemExit(f"The runs of {framework} failed, as shown above.")
        raw = json.loads(path.read_text())
    raw["timings"] = {name: Timing(**timing) for name, timing in raw["timings"].items()}
    return Figures(**raw)


def measure_in_process(framework: str, names: Iterable[str], stretches: int, into: Path) -> None:
    """Time the cases with these names and count the calls of the training ones; the figures go to ``into`` as JSON."""
    torch.set_num_threads(1)
    loop = loop_of(framework)
    figures = Figures(framework, loop.VERSION)
    wanted = set(names)
    for case in CASES:
        if case.name in wanted and getattr(loop, "supports", _everything)(case):
            figures.timings[case.name] = _timed(loop, case, max(5, stretches // FRAMEWORKS[framework]))
            if case.stage == "fit" and not case.logged:
                figures.calls[case.name] = total(calls_per_step(lambda batches: _run(loop, case, batches)))  # noqa: B023
    into.write_text(json.dumps(asdict(figures)))


def _timed(loop: ModuleType, case: Case, stretches: int) -> Timing:
    batches = InterleavedBatches(loop_for(case), stretches=stretches)
    _run(loop, case, batches)
    return batches.timing()


def _run(loop: ModuleType, case: Case, batches: Iterable[Tensor]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loop.run(case, batches, folder)


def _everything(case: Case) -> bool:
    return True
