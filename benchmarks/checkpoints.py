"""``python -m benchmarks.checkpoints``: how long a training waits for a checkpoint, over a plain ``torch.save``.

The model has 100 million parameters and Adam, 1.2 GB with its state. Within one training the same checkpoint is made in
turn by ``torch.save`` into a new file that is flushed to the disk, by a copy of its tensors in memory, by
``ModelCheckpoint()`` and by ``ModelCheckpoint(asynchronous=True)``. Each is printed as its median over that of
``torch.save``, by the clock and by the CPU time of the training's thread. What the asynchronous save blocks is compared
with the copy round by round: both are memory at work, which the CPU time tells apart from whoever else has the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its thread pool reads it once

import torch
from torch import Tensor, nn

from benchmarks.malloc import take_memory_anew
from leyden import Callback, LightningModule, Trainer
from leyden.state.checkpoint import dump
from leyden_checkpoint import ModelCheckpoint

__all__ = ["measure"]

_TENSOR_SIZE = 4_000_000
_SAVE, _COPY, _BACKGROUND = "torch.save", "copy in memory", "ModelCheckpoint(asynchronous=True)"
_ORDER = [_SAVE, _COPY, "ModelCheckpoint()", _BACKGROUND, "  until its file is whole"]

Times = dict[str, list[tuple[float, float]]]
"""Of each way, round by round: seconds by the clock, and of this thread's CPU time."""


class Large(LightningModule):
    """Nothing but parameters, in tensors of four million, all of which get a gradient."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        sizes = [_TENSOR_SIZE] * (parameters // _TENSOR_SIZE) + [parameters % _TENSOR_SIZE]
        self.weights = nn.ParameterList(torch.zeros(size) for size in sizes if size)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        losses: list[Tensor] = [(weight - batch).square().mean() for weight in self.weights]
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


class Stopwatch(Callback):
    """Makes the checkpoint in each way in turn, and keeps what each took, in seconds."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.times: Times = {}
        self._rounds = rounds
        self._folder = folder
        self._waiting, self._background = (
            ModelCheckpoint(folder / name, "newest", asynchronous=name == "background")
            for name in ("waiting", "background")
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not in the hook of an end, which would put the saves off until everyone has had it.
        if not 0 < batch_idx <= self._rounds:  # Adam has its state after the first step, the last is timed alone
            return
        turns = [self._time_plain_save, self._time_copy, self._time_waiting, self._time_background]
        first = batch_idx % len(turns)  # memory and disk are kindest to whoever comes second
        for turn in turns[first:] + turns[:first]:
            turn(trainer)

    def _time_plain_save(self, trainer: Trainer) -> None:
        self._time(_SAVE, lambda: self._plain_save(trainer))
        (self._folder / "plain.ckpt").unlink()  # each is written anew; what a disk does for a file it has is not timed

    def _time_copy(self, trainer: Trainer) -> None:
        self._time(_COPY, lambda: _copies(dump(trainer)))

    def _time_waiting(self, trainer: Trainer) -> None:
        self._time("ModelCheckpoint()", lambda: _save(self._waiting, trainer))

    def _time_background(self, trainer: Trainer) -> None:
        self._time(_BACKGROUND, lambda: _save(self._background, trainer))
        self._time("  until its file is whole", self._background.finish_saving)

    def _time(self, name: str, act: Callable[[], object]) -> None:
        os.sync()  # what an earlier one left to be written is in no other's time
        start, cpu = time.perf_counter(), time.thread_time()
        kept = act()  # what it returns is freed when the time is taken
        self.times.setdefault(name, []).append((time.perf_counter() - start, time.thread_time() - cpu))
        del kept

    def _plain_save(self, trainer: Trainer) -> None:
        with (self._folder / "plain.ckpt").open("wb") as file:
            torch.save(dump(trainer), file)
            file.flush()
            os.fsync(file.fileno())


def _save(checkpoint: ModelCheckpoint, trainer: Trainer) -> None:
    """What the end of an epoch makes of it; the step is forgotten, so that each call saves."""
    checkpoint.saved_at = None
    checkpoint._save(trainer, "epoch", due=True, ends=True)


def _copies(content: Any) -> list[Tensor]:
    if isinstance(content, Tensor):
        return [content.clone()]
    if isinstance(content, dict):
        content = list(content.values())
    return [copy for item in content for copy in _copies(item)] if isinstance(content, list) else []


def measure(parameters: int, rounds: int, folder: Path) -> Times:
    """Make checkpoints of `parameters` parameters with Adam in each way, `rounds` times."""
    stopwatch = Stopwatch(folder, rounds)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=stopwatch,
        logger=False,
        discover_callbacks=False,
        enable_checkpointing=False,
    )
    trainer.fit(Large(parameters), [torch.ones(1)] * (rounds + 1))
    return stopwatch.times


def _over(times: Times, name: str, base: str) -> tuple[float, float]:
    """The median of the rounds' ratios, by the clock and by CPU time."""
    pairs = list(zip(times[name], times[base], strict=True))
    by_clock, by_cpu = (statistics.median(one[kind] / other[kind] for one, other in pairs) for kind in (0, 1))
    return by_clock, by_cpu


def main() -> None:
    """Measure and print the ratios."""
    torch.set_num_threads(1)
    take_memory_anew()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--parameters", type=int, default=100_000_000, help="of the model (100 million)")
    parser.add_argument("--rounds", type=int, default=4, help="saves of each kind (4)")
    parser.add_argument("--folder", type=Path, help="where to write, on the disk to measure; a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        times = measure(arguments.parameters, arguments.rounds, Path(folder))
    base = statistics.median(by_clock for by_clock, _ in times[_SAVE])
    print(f"{arguments.parameters:,} parameters with Adam; torch.save takes {base:.2f} s here\n")
    print(f"{'over torch.save':36} {'clock':>6} {'CPU':>6}")
    for name in sorted(times, key=_ORDER.index):
        print("{:36} {:6.3f} {:6.3f}".format(name, *_over(times, name, _SAVE)))
    print("\n{:36} {:6.3f} {:6.3f}".format("asynchronous over copy in memory", *_over(times, _BACKGROUND, _COPY)))


if __name__ == "__main__":
    main()
