"""``python -m benchmarks.several_processes``: what the loop adds to a DDP loop by hand, in two processes with gloo.

Two processes, started as torchrun would start them, each train the same net twice in turn: a stretch of steps by a loop
that is written by hand around ``DistributedDataParallel``, and one by Leyden's ``strategy="ddp"``, within one fit and
one process group. Each process counts its own CPU time, all threads together, in which the sending and receiving is.
Rows and what is sent for metrics are Leyden's alone: the loop by hand keeps no metrics, but in the last case, where it
adds up what the module logs and sends one message each 50 steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its thread pool reads it once

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.interleave import InterleavedBatches, Timing
from benchmarks.report import RESULTS, machine_facts
from leyden import LightningModule, Trainer

__all__ = ["CASES", "LIMIT", "Case", "measure"]

logging.getLogger("leyden").setLevel(logging.WARNING)  # why a run ended is of no interest here

LIMIT = 1.05
"""The loop may take 5 % more than the one by hand."""

PROCESSES = 2
_LOG_EVERY_N_STEPS = 50


@dataclass(frozen=True, slots=True)
class Case:
    """How large the net is (its hidden layer; 0 for one layer alone), and how many values are logged of each step."""

    title: str
    hidden: int
    logged: int = 0
    by_hand_logs: bool = False
    is_held: bool = True


CASES = {
    "bare": Case("one layer", 0),
    "log-1": Case("one layer, a value with sync_dist", 0, logged=1, is_held=False),
    "mlp": Case("a perceptron", 256),
    "mlp-log-1": Case("a perceptron, a value with sync_dist", 256, logged=1),
    "mlp-log-5": Case("a perceptron, five values with sync_dist", 256, logged=5),
    "mlp-both-log-5": Case("the same, the loop by hand sums five up, too", 256, logged=5, by_hand_logs=True),
}


class Net(nn.Module):
    """Its forward returns the loss."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: nn.Module = nn.Linear(32, 2)
        if hidden:
            self.net = nn.Sequential(
                nn.Linear(32, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)
            )

    def forward(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        return loss


class Module(LightningModule):
    """The net as Leyden trains it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.net = Net(case.hidden)
        self.names = [f"metric_{at}" for at in range(case.logged)]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch)
        for name in self.names:
            self.log(name, loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


def loop_by_hand(case: Case) -> Callable[[Iterable[Tensor]], None]:
    """Return the loop of PyTorch's tutorial; made in the fit, in whose process group it is."""
    net = DistributedDataParallel(Net(case.hidden))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)

    def train(batches: Iterable[Tensor]) -> None:
        with torch.enable_grad():
            for batch in batches:
                optimizer.zero_grad()
                net(batch).backward()
                optimizer.step()

    def train_and_log(batches: Iterable[Tensor]) -> None:
        sums, latest, seen = [0.0] * case.logged, [0.0] * case.logged, 0
        with torch.enable_grad():
            for step, batch in enumerate(batches, 1):
                optimizer.zero_grad()
                loss = net(batch)
                loss.backward()
                optimizer.step()
                for at in range(case.logged):
                    latest[at] = loss.item()
                    sums[at] += latest[at] * len(batch)
                seen += len(batch)
                if step % _LOG_EVERY_N_STEPS == 0:
                    dist.all_reduce(torch.tensor(latest))
        dist.all_reduce(torch.tensor([*sums, seen]))

    return train_and_log if case.by_hand_logs else train


def run_in_process(case: Case, stretches: int, into: Path) -> None:
    """Train by turns, as one of the processes; the timing goes to `into`."""
    torch.set_num_threads(1)
    made: list[Callable[[Iterable[Tensor]], None]] = []

    def by_hand(batches: Iterable[Tensor]) -> None:
        if not made:
            made.append(loop_by_hand(case))
        made[0](batches)

    batches = InterleavedBatches(by_hand, steps=_LOG_EVERY_N_STEPS, stretches=stretches)
    trainer = Trainer(
        strategy="ddp",
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        discover_callbacks=False,
        log_every_n_steps=_LOG_EVERY_N_STEPS,
    )
    trainer.fit(Module(case), batches)
    into.write_text(json.dumps(asdict(batches.timing())))


def measure(name: str, stretches: int) -> list[Timing]:
    """Run a case in its processes, and return what each measured."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for rank in range(PROCESSES):
            place = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(PROCESSES),
                "LOCAL_WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            }  # fmt: skip
            command = [sys.executable, "-m", "benchmarks.several_processes", "--worker", name]
            command += ["--stretches", str(stretches), "--into", f"{folder}/{rank}.json"]
            running.append(subprocess.Popen(command, env={**os.environ, **place}))
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit(f"The processes of {name} failed, as shown above.")
        return [Timing(**json.loads(Path(folder, f"{rank}.json").read_text())) for rank in range(PROCESSES)]


def main() -> None:
    """Measure the cases, print them and write them to a file; fail above the limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.several_processes", description=__doc__)
    parser.add_argument(
        "--cases", nargs="+", choices=list(CASES), default=list(CASES), metavar="CASE", help=", ".join(CASES)
    )
    parser.add_argument("--stretches", type=int, default=40, help="pairs of 100 steps by which a case is timed (40)")
    parser.add_argument("--no-file", action="store_true", help="write no file under benchmarks/results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run_in_process(CASES[arguments.worker], arguments.stretches, arguments.into)
        return
    figures: dict[str, Any] = {}
    print(f"CPU time of a step over that of the loop by hand, in {PROCESSES} processes (at most {LIMIT})\n")
    for name in arguments.cases:
        case, timings = CASES[name], measure(name, arguments.stretches)
        ratio = statistics.mean(timing.ratio for timing in timings)
        above, by_hand = (statistics.mean(getattr(one, of) for one in timings) for of in ("above_us", "handwritten_us"))
        figures[name] = {**asdict(case), "ratio": ratio, "processes": [asdict(timing) for timing in timings]}
        held = f"{round(ratio, 2) <= LIMIT!s:5}" if case.is_held else "     "
        print(f"{case.title:48} {held} {ratio:.3f}  {above:+.1f} µs of {by_hand:.0f} µs", flush=True)
    if not arguments.no_file:
        now = datetime.now(UTC)
        path = RESULTS / f"several_processes-{now:%Y-%m-%dT%H%M%SZ}.json"
        head = {"date": now.isoformat(timespec="seconds"), "machine": machine_facts(), "limit": LIMIT}
        path.write_text(json.dumps({**head, "cases": figures}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")
    if any(round(one["ratio"], 2) > LIMIT for one in figures.values() if one["is_held"]):
        raise SystemExit(f"above {LIMIT}")


if __name__ == "__main__":
    main()
