"""``python -m benchmarks.cuda``: what the loop adds to a step of a small model's CUDA kernels, or of CUDA graphs.

The same net is trained twice in turn, on one GPU: a stretch of steps by a loop that is written by hand, and one by
Leyden, within one fit. Time is the clock's, from an idle GPU to an idle GPU: so small a model leaves the GPU waiting
for Python, so that the time of a step is that of the loop. With graphs, forward and backward are a launch each
(`torch.cuda.make_graphed_callables`), which leaves Python the least to do and shows the loop's share at its largest.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.interleave import InterleavedBatches, Timing
from benchmarks.report import RESULTS, machine_facts
from leyden import LightningModule, Trainer

__all__ = ["CASES", "Case", "measure"]

logging.getLogger("leyden").setLevel(logging.WARNING)  # why a run ended is of no interest here

_WIDTH, _BATCH = 256, 64


@dataclass(frozen=True, slots=True)
class Case:
    """Whether forward and backward are CUDA graphs, in which precision, and how many values are logged of each step."""

    title: str
    graphs: bool = False
    precision: str = "32-true"
    logged: int = 0


CASES = {
    "kernels": Case("kernels"),
    "graphs": Case("CUDA graphs", graphs=True),
    "kernels-log-1": Case("kernels, a value logged", logged=1),
    "graphs-log-1": Case("CUDA graphs, a value logged", graphs=True, logged=1),
    "bf16-mixed": Case("kernels, bf16-mixed", precision="bf16-mixed"),
    "16-mixed": Case("kernels, 16-mixed", precision="16-mixed"),
}


def make_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, 1)
    )


def graphed(net: nn.Module, batch: Tensor) -> nn.Module:
    """Return `net` with its forward and backward recorded for batches like this one."""
    return cast(nn.Module, torch.cuda.make_graphed_callables(net, (torch.zeros_like(batch),)))


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=1e-4)


class Module(LightningModule):
    """The net as Leyden trains it."""

    def __init__(self, case: Case, batch: Tensor) -> None:
        super().__init__()
        self.net, self.case, self.batch = make_net(), case, batch
        self.names = [f"metric_{at}" for at in range(case.logged)]

    def on_fit_start(self) -> None:
        if self.case.graphs:
            self.net = graphed(self.net, self.batch)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        for name in self.names:
            self.log(name, loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.net)


class LoopByHand:
    """The loop of PyTorch's tutorial, with the automatic mixed precision of its recipe."""

    def __init__(self, case: Case, batch: Tensor) -> None:
        net = make_net().to(batch.device)
        self.net = graphed(net, batch) if case.graphs else net
        self.optimizer, self.device = optimizer_of(self.net), batch.device.type
        self.dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(case.precision)
        self.scaler = torch.amp.GradScaler(self.device) if case.precision == "16-mixed" else None

    def __call__(self, batches: Iterable[Tensor]) -> None:
        with torch.enable_grad():
            for batch in batches:
                self.optimizer.zero_grad()
                if self.dtype is None:
                    loss = self.net(batch).square().mean()
                else:
                    with torch.autocast(self.device, self.dtype):
                        loss = self.net(batch).square().mean()
                if self.scaler is None:
                    loss.backward()
                    self.optimizer.step()
                else:
                    self.scaler.scale(loss).backward()
                    self.scaler.step(self.optimizer)
                    self.scaler.update()


def measure(case: Case, accelerator: str, steps: int, stretches: int) -> Timing:
    """Train by turns, by hand and by Leyden, and return the clock's times of a step."""
    device = torch.device(accelerator)
    batches = [torch.randn(_BATCH, _WIDTH, device=device) for _ in range(steps)]

    def clock() -> int:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter_ns()

    turns = InterleavedBatches(LoopByHand(case, batches[0]), batches=batches, stretches=stretches, clock=clock)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        precision=case.precision,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        discover_callbacks=False,
    )
    trainer.fit(Module(case, batches[0]), turns)
    return turns.timing()


def main() -> None:
    """Measure the cases, print them and write them to a file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=200, help="steps of a stretch (200)")
    parser.add_argument("--stretches", type=int, default=40, help="pairs of stretches by which a case is timed (40)")
    parser.add_argument("--accelerator", choices=["cuda", "cpu"], default="cuda", help="cpu leaves graphs out")
    parser.add_argument("--no-file", action="store_true", help="write no file under benchmarks/results")
    arguments = parser.parse_args()
    on_cuda = arguments.accelerator == "cuda"
    if on_cuda and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here; --accelerator cpu tries the cases without graphs.")
    machine = {**machine_facts(), "device": torch.cuda.get_device_name() if on_cuda else "cpu"}
    figures: dict[str, Any] = {}
    print(f"The clock's time of a step over that of the loop by hand, on {machine['device']}\n")
    for name in arguments.cases or CASES:
        case = CASES[name]
        if case.graphs and not on_cuda:
            continue
        timing = measure(case, arguments.accelerator, arguments.steps, arguments.stretches)
        figures[name] = {**asdict(case), **asdict(timing)}
        print(
            f"{case.title:32} {timing.ratio:.3f}  {timing.above_us:+.1f} µs of {timing.handwritten_us:.0f} µs",
            flush=True,
        )
    if not arguments.no_file:
        now = datetime.now(UTC)
        path = RESULTS / f"cuda-{now:%Y-%m-%dT%H%M%SZ}.json"
        head = {"date": now.isoformat(timespec="seconds"), "machine": machine}
        path.write_text(json.dumps({**head, "cases": figures}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
