"""``python -m benchmarks.bars``: what a progress bar adds to a training of 10,000 bare steps.

Within one training the bar gets its calls for 250 steps and is left out for 250, in an order by chance, so that what a
busy machine or the layout of memory does to a training is on both sides. What is printed is the CPU time of the steps
with the bar, drawings included, and of all the bar does before the first and after the last step, over the time of as
many steps without. Since the bar is there half of the time, it is made to draw half as often. Imports (a first training
is not counted) and garbage collection are not in it. Standard output is a pseudo-terminal, then a pipe; another process
reads it.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import pty
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its thread pool reads it once

import torch
from torch import Tensor

from benchmarks.handwritten import Net, make_batches
from benchmarks.report import machine_facts
from leyden import LightningModule, Trainer
from leyden_monitoring import RichProgressBar, TQDMProgressBar
from leyden_monitoring.display import PlainLines
from leyden_monitoring.rich_display import RichDisplay
from leyden_monitoring.tqdm_display import TQDMDisplay

__all__ = ["LIMITS", "measure"]

logging.getLogger("leyden").setLevel(logging.WARNING)  # why a run ended is of no interest here

LIMITS = {"terminal": 1.05, "pipe": 1.01}
_BARS: dict[str, Any] = {"TQDMProgressBar": TQDMProgressBar, "RichProgressBar": RichProgressBar}


class _Module(Net, LightningModule):
    """The hand-written step, trained by Leyden."""


@dataclass
class _Stopwatch:
    """CPU time, in seconds: of the steps with the bar, of those without, and of the bar's other hooks."""

    with_bar: float = 0.0
    without: float = 0.0
    around: float = 0.0


class _Alternating:
    """A loader that leaves the bar's calls out of every other `stretch` batches."""

    def __init__(self, trainer: Trainer, steps: int, stretch: int, watch: _Stopwatch) -> None:
        self._trainer, self._batches, self._stretch, self._watch = trainer, make_batches(stretch), stretch, watch
        self._stretches = 2 * steps // stretch

    def __len__(self) -> int:
        return (self._stretches + 2) * self._stretch

    def __iter__(self) -> Iterator[Tensor]:
        loop, watch = self._trainer.fit_loop, self._watch
        yield from self._batches  # not counted: the first steps of any training take longer
        order = random.Random()  # what comes every so many steps is on both sides
        for _ in range(self._stretches // 2):
            first = order.random() < 0.5
            for has_bar in (first, not first):
                loop.call_behind = 0 if has_bar else math.inf
                start = time.thread_time()
                yield from self._batches
                seconds = time.thread_time() - start
                if has_bar:
                    watch.with_bar += seconds
                else:
                    watch.without += seconds
        yield from self._batches  # nor is this: who has the last batch asks for no more


def _timed(bar_class: Any, watch: _Stopwatch) -> Any:
    """The bar with a stopwatch at the hooks that come once; that of each batch is as it is."""

    def timed(name: str) -> Any:
        def hook(self: Any, *arguments: Any) -> None:
            start = time.thread_time()
            getattr(bar_class, name)(self, *arguments)
            watch.around += time.thread_time() - start

        return hook

    hooks = ("setup", "on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_train_end", "teardown")
    return type(bar_class.__name__, (bar_class,), {name: timed(name) for name in hooks})()


def _ratio(bar_class: Any, steps: int, stretch: int = 250) -> float:
    """The cost of a training of `steps` steps with the bar over one without."""
    watch = _Stopwatch()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[_timed(bar_class, watch)],
        logger=False,
        enable_checkpointing=False,
        discover_callbacks=False,
    )
    trainer.fit(_Module(), _Alternating(trainer, steps, stretch, watch))
    return (watch.with_bar + watch.around) / watch.without


def _work(steps: int, rounds: int, into: Path) -> None:
    """Time the trainings; what they show goes to this process's standard output."""
    torch.set_num_threads(1)
    for display in (TQDMDisplay, RichDisplay, PlainLines):
        display.interval_s *= 2
    for bar_class in _BARS.values():
        _ratio(bar_class, steps // 10)
    gc.disable()  # a full collection takes as long as 200 steps, and falls on one side or the other
    figures: dict[str, list[float]] = {name: [] for name in _BARS}
    for _ in range(rounds):
        for name, bar_class in _BARS.items():
            figures[name].append(_ratio(bar_class, steps))
            gc.collect()
    into.write_text(
        json.dumps({name: [round(q, 4) for q in statistics.quantiles(v, n=4)] for name, v in figures.items()})
    )


def measure(output: str, steps: int, rounds: int) -> dict[str, Any]:
    """Return the quartiles of each bar's ratio over the rounds, for the output "terminal" or "pipe"."""
    read_end, write_end = pty.openpty() if output == "terminal" else os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.bars", "--steps", str(steps), "--rounds", str(rounds)]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        worker = subprocess.Popen([*command, "--into", str(path)], stdout=write_end, env=environment, cwd=os.getcwd())
        os.close(write_end)
        _drain(read_end)
        if worker.wait():
            raise SystemExit("The run failed, as shown above.")
        figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def _drain(read_end: int) -> None:
    try:
        while os.read(read_end, 65536):
            pass
    except OSError:  # how a pseudo-terminal says that the last writer has gone
        pass
    os.close(read_end)


def main() -> None:
    """Measure, print the table, write the figures, and fail above a limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bars", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000, help="of a training (10,000)")
    parser.add_argument("--rounds", type=int, default=15, help="trainings with each bar (15)")
    parser.add_argument("--json", type=Path, help="write the figures to this file, or into this folder by date")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # this process is the one that is measured
    arguments = parser.parse_args()
    if arguments.into is not None:
        _work(arguments.steps, arguments.rounds, arguments.into)
        return
    now = datetime.now(UTC)
    figures = {output: measure(output, arguments.steps, arguments.rounds) for output in LIMITS}
    print(f"{arguments.steps:,} steps with a bar, over those without: median (quartiles), {arguments.rounds} rounds\n")
    missed = False
    for output, found in figures.items():
        for name, (low, median, high) in found.items():
            missed |= median > LIMITS[output]
            print(f"{name:16} to a {output:8}  {median:.3f} ({low:.3f}-{high:.3f})  target ≤ {LIMITS[output]:.2f}")
    if arguments.json is not None:
        into = arguments.json
        path = into / f"bars-{now:%Y-%m-%dT%H%M%SZ}.json" if into.is_dir() else into
        content = {"date": now.isoformat(timespec="seconds"), "machine": machine_facts(), "steps": arguments.steps}
        path.write_text(json.dumps(content | {"rounds": arguments.rounds, "figures": figures}, indent=1) + "\n")
    if missed:
        raise SystemExit("A target is missed.")


if __name__ == "__main__":
    main()
