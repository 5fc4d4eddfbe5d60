"""What discovery adds to ``Trainer(...)``: beside a Trainer that is given the same callbacks, five families installed.

The fifth is one of somebody else's, written into a temporary folder. In the first Trainer of a process the entry points
are read and the callbacks' modules imported; the latter whoever gives the callbacks imports too.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["DiscoveryTime", "discovery_time", "one_process"]

_FIFTH = """
from leyden import Callback

class Watch(Callback):
    def on_train_batch_end(self, trainer, pl_module): ...

def make():
    return [Watch()]
"""


@dataclass(frozen=True, slots=True)
class DiscoveryTime:
    """CPU milliseconds above a Trainer that is given the same callbacks: the first of a process, and each further."""

    first_ms: float
    further_ms: float
    factories: int
    processes: int


def discovery_time(processes: int = 9) -> DiscoveryTime:
    """Medians over pairs of fresh processes, of which one discovers what the other is given."""
    with tempfile.TemporaryDirectory() as folder:
        _write_fifth(Path(folder))
        _in_process(folder, "discovered")  # compiled files and the disk's cache are there from now on
        pairs = []
        for _ in range(processes):
            discovered = _in_process(folder, "discovered")
            pairs.append((discovered, _in_process(folder, "given", *discovered["callbacks"])))
    return DiscoveryTime(
        first_ms=statistics.median(found["first_ms"] - given["first_ms"] for found, given in pairs),
        further_ms=statistics.median(found["further_ms"] - given["further_ms"] for found, given in pairs),
        factories=pairs[0][0]["factories"],
        processes=processes,
    )


def one_process(callbacks: list[str] | None) -> str:
    """Make Trainers in this process, which discover their callbacks or are given these; the times as JSON."""
    import leyden
    import leyden.callbacks

    fifth = importlib.import_module("fifth_family") if importlib.util.find_spec("fifth_family") else None

    def trainer() -> leyden.Trainer:
        if callbacks is None:
            return leyden.Trainer(accelerator="cpu")
        made = [getattr(fifth, name, None) or getattr(leyden.callbacks, name) for name in callbacks]
        return leyden.Trainer(accelerator="cpu", callbacks=[one() for one in made], discover_callbacks=False)

    leyden.Trainer(accelerator="cpu", discover_callbacks=False)
    gc.collect()
    gc.disable()  # a collection walks over all that torch made, at no Trainer in particular
    times = []
    for _ in range(30):
        start = time.process_time_ns()
        last = trainer()
        times.append((time.process_time_ns() - start) / 1e6)
    return json.dumps(
        {
            "first_ms": times[0],
            "further_ms": statistics.median(times[1:]),
            "callbacks": [type(one).__name__ for one in last.callbacks],
            "factories": len(leyden.discovery.installed_factories()),
        }
    )


def _write_fifth(folder: Path) -> None:
    (folder / "fifth_family.py").write_text(_FIFTH, encoding="utf-8")
    about = folder / "fifth_family-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fifth-family\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[leyden.callbacks_factory]\nfifth = fifth_family:make\n", encoding="utf-8")


def _in_process(folder: str, *arguments: str) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LEYDEN_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")]))
    environment["PYTHONPYCACHEPREFIX"] = os.path.join(folder, "compiled")
    command = [sys.executable, "-m", "benchmarks", "discovery-worker", *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit("Making Trainers failed, as shown above.")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen
