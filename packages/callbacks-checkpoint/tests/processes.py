"""Run by `test_two_processes`: one of two processes, joined by gloo, that go through `ModelCheckpoint` together.

The environment holds RANK, the arguments are names of cases, each with a folder of that name in the working folder: a
fork for each writes what it saw to ``seen-RANK.json`` there.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden import LightningModule, Trainer
from leyden.callback import Callback
from leyden.runtime.strategy import Strategy
from leyden.state import storage
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint, OnExceptionCheckpoint

RANK = int(os.environ.pop("RANK", "0"))  # which means a launcher, where a Trainer is made


class Two(Strategy):
    """Two processes that train copies on their own and agree where they are asked to."""

    global_rank = local_rank = RANK
    world_size = 2

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))

    def barrier(self, name: str | None = None) -> None:
        dist.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        box = [obj]
        dist.broadcast_object_list(box, src)
        return box[0]

    def gather(self, obj: Any) -> list[Any]:
        box: list[Any] = [None, None] if RANK == 0 else []
        dist.gather_object(obj, box or None)
        return box

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        vote = torch.tensor(int(decision))
        dist.all_reduce(vote, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX)
        return bool(vote)


class Scored(BoringModule):
    """Each process sees scores of its own: those of the second would rank the other way round."""

    def __init__(self, fails_in_rank: int = -1) -> None:
        super().__init__(batches={"train": 2, "val": 1})
        self.fails_in_rank = fails_in_rank

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        epoch = self.trainer.current_epoch
        self.log("val_loss", float(-epoch if RANK == 0 else epoch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.fails_in_rank == RANK:
            raise ValueError(f"rank {RANK} cannot")


class Raise(Callback):
    """One process fails in the third step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.rank == RANK and trainer.global_step == 2:
            raise RuntimeError(f"process {RANK} fails")


class Clocked(ModelCheckpoint):
    """In the first process a step takes a minute, in the second no time at all."""

    readings: Iterator[float] = iter(range(0, 10_000, 60))

    @staticmethod
    def clock() -> float:
        return 0.0 if RANK else next(Clocked.readings)


def fit(module: Scored, *callbacks: Callback) -> str:
    """Return the error the fit ended with, or nothing."""
    trainer = Trainer(
        max_epochs=3, logger=False, callbacks=list(callbacks), strategy=Two(), num_sanity_val_steps=0,
        discover_callbacks=False,
    )  # fmt: skip
    try:
        trainer.fit(module)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def best(checkpoint: ModelCheckpoint) -> list[str]:
    return [os.path.basename(path) for path in checkpoint.best_k_models]


class Watched:
    """`storage.save` that tells what is written, and finds the disk full in some folders."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.full: set[str] = set()
        self._save = storage.save
        storage.save = self.save

    def save(self, obj: Any, path: Any, copy_of: Any = None) -> None:
        self.written.append(os.path.relpath(path))
        if any(str(path).startswith(os.path.abspath(folder)) for folder in self.full):
            raise OSError(28, "No space left on device", str(path))
        self._save(obj, path, copy_of)

    def told(self) -> list[str]:
        written, self.written = self.written, []
        return written


def together(disk: Watched) -> dict[str, Any]:
    """What the two go through side by side, to its end."""
    seen: dict[str, Any] = {}
    for asynchronous in (False, True):
        kind = "asynchronous" if asynchronous else "waiting"
        checkpoint = ModelCheckpoint(kind, "{epoch}", "val_loss", save_last=True, asynchronous=asynchronous)
        disk.told()
        seen[kind] = [fit(Scored(), checkpoint), best(checkpoint), disk.told()]

        folder = f"full-{kind}"
        disk.full.add(folder)
        checkpoint = ModelCheckpoint(folder, "{epoch}", "val_loss", asynchronous=asynchronous)
        seen[folder] = [fit(Scored(), checkpoint), best(checkpoint)]
        checkpoint = ModelCheckpoint(folder, "{epoch}", "val_loss", asynchronous=asynchronous, on_save_error="warn")
        seen[f"{folder}-warn"] = [fit(Scored(), checkpoint), best(checkpoint)]
        for rank in (0, 1):
            checkpoint = ModelCheckpoint(f"wrong-{kind}", asynchronous=asynchronous)
            seen[f"wrong-{rank}-{kind}"] = [fit(Scored(rank), checkpoint), checkpoint.best_model_path]
    seen["missing"] = fit(Scored(), ModelCheckpoint("missing", monitor="none"))
    disk.told()
    clocked = Clocked("clocked", "{step}", train_time_interval=timedelta(minutes=2), save_top_k=-1)
    seen["clocked"] = [fit(Scored(), clocked), disk.told()]
    return seen


def torn(disk: Watched, rank: int, asynchronous: bool) -> dict[str, Any]:
    """One is torn out of training; afterwards the two are no longer at the same place."""
    how: dict[str, Any] = {"every_n_train_steps": 1, "save_top_k": -1, "asynchronous": asynchronous}
    callbacks = [Raise(rank), ModelCheckpoint("model", "{step}", **how), OnExceptionCheckpoint("exception")]
    late = ModelCheckpoint("late", "{step}", every_n_epochs=2, save_on_exception=True, asynchronous=asynchronous)
    return {"torn": [fit(Scored(), *callbacks, late), disk.told()]}


if __name__ == "__main__":
    Trainer(max_epochs=1, logger=False, discover_callbacks=False).fit(BoringModule())  # imports what the forks need
    gc.freeze()  # and no garbage collection of theirs goes through it
    for name in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            break
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            sys.exit(f"{name} ended with {status}")
    else:
        sys.exit()
    os.chdir(name)
    dist.init_process_group(
        "gloo", init_method=f"file://{os.getcwd()}/rendezvous", rank=RANK, world_size=2, timeout=timedelta(seconds=60)
    )
    case, *numbers = name.split("-")
    seen = together(Watched()) if case == "together" else torn(Watched(), int(numbers[0]), bool(int(numbers[1])))
    Path(f"seen-{RANK}.json").write_text(json.dumps(seen), encoding="utf-8")
    os._exit(0)  # no orderly end: the two may no longer be at the same place
