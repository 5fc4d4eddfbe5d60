"""Run by torchrun: a training of which process 1 is killed in mid-epoch, the first time.

``elastic_script.py FOLDER`` writes into ``FOLDER/N.pt`` what each process has in the end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from tests.parallel_runs import Net

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint

__all__ = ["train"]

KILLED_AT_STEP = 9


class KilledAtFirst(Callback):
    """Process 1 is killed in a step, unless this is a restart."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first and (trainer.global_rank, trainer.global_step) == (1, KILLED_AT_STEP):
            os.kill(os.getpid(), signal.SIGKILL)


def train() -> dict[str, Any]:
    """Train for three epochs of 6 steps, going on where a checkpoint is."""
    torch.set_num_threads(1)
    run = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, discover_callbacks=False, enable_progress_bar=False,
        callbacks=[ModelCheckpoint("saved", every_n_train_steps=4), KilledAtFirst()],
    )  # fmt: skip
    module = Net(4)
    run.fit(module, ckpt_path="auto")
    return {
        "weights": module.state_dict(),
        "momentum": run.optimizers[0].state_dict()["state"],
        "progress": (run.current_epoch, run.global_step),
        "metrics": {name: float(value) for name, value in run.callback_metrics.items()},
        "from": run.ckpt_path and os.path.basename(run.ckpt_path),
        "place": (run.global_rank, run.local_rank, run.node_rank, run.world_size, run.num_devices, run.num_nodes),
    }


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    found = train()
    torch.save(found, Path(f"{found['place'][0]}.pt"))
