"""Run by `test_two_processes`: one of two processes, joined by gloo, that go through `ModelCheckpoint` together.

The environment holds RANK and RENDEZVOUS; what this process saw goes to ``seen-RANK.json`` in the working folder.
"""

from __future__ import annotations

import json
import os
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
from leyden_checkpoint import ModelCheckpoint

RANK = int(os.environ.get("RANK", "0"))


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

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if RANK == 1 and trainer.global_step == 2:
            raise RuntimeError("the second process fails")


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


def main() -> dict[str, Any]:
    written: list[str] = []
    full: set[str] = set()
    save = storage.save

    def watched(obj: Any, path: Any, copy_of: Any = None) -> None:
        written.append(os.path.relpath(path))
        if any(str(path).startswith(os.path.abspath(folder)) for folder in full):
            raise OSError(28, "No space left on device", str(path))
        save(obj, path, copy_of)

    storage.save = watched
    seen: dict[str, Any] = {}
    for asynchronous in (False, True):
        written.clear()
        kind = "asynchronous" if asynchronous else "waiting"
        checkpoint = ModelCheckpoint(kind, "{epoch}", "val_loss", save_last=True, asynchronous=asynchronous)
        seen[kind] = [fit(Scored(), checkpoint), best(checkpoint), written.copy()]

        folder = f"full-{kind}"
        full.add(folder)
        checkpoint = ModelCheckpoint(folder, "{epoch}", "val_loss", asynchronous=asynchronous)
        seen[folder] = [fit(Scored(), checkpoint), best(checkpoint)]
        checkpoint = ModelCheckpoint(folder, "{epoch}", "val_loss", asynchronous=asynchronous, on_save_error="warn")
        seen[f"{folder}-warn"] = [fit(Scored(), checkpoint), best(checkpoint)]
        for rank in (0, 1):
            checkpoint = ModelCheckpoint(f"wrong-{kind}", asynchronous=asynchronous)
            seen[f"wrong-{rank}-{kind}"] = [fit(Scored(rank), checkpoint), checkpoint.best_model_path]
    seen["missing"] = fit(Scored(), ModelCheckpoint("missing", monitor="none"))
    written.clear()
    seen["torn"] = [fit(Scored(), Raise(), ModelCheckpoint("torn", "{step}", save_on_exception=True)), written.copy()]
    return seen


if __name__ == "__main__":
    dist.init_process_group(
        "gloo", init_method=os.environ["RENDEZVOUS"], rank=RANK, world_size=2, timeout=timedelta(seconds=60)
    )
    Path(f"seen-{RANK}.json").write_text(json.dumps(main()), encoding="utf-8")
    os._exit(0)  # no orderly end: in the last case the two are no longer at the same place
