"""A training that runs in a process of its own: ``resumed_process.py FOLDER SEED CKPT_PATH STOP AT WORKERS``.

It writes a line for each batch to ``seen.txt``, and at its end all that a checkpoint would hold to ``end.pt``. STOP is
how it ends at the AT-th training or validation batch: "kill", "term", "raise", or "" to let it run.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from leyden import LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump

FOLDER, SEED, CKPT_PATH, STOP, AT, WORKERS = sys.argv[1:7] if len(sys.argv) > 6 else (".", "1", "", "", "0", "0")


class Noisy(Dataset[Tensor]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        item = torch.linspace(-1, 1, 4) * index
        if WORKERS != "0":  # workers of a resumed epoch draw from generators of their own
            return item
        return item + 0.1 * (torch.rand(4) + random.random() + float(np.random.rand()))


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.batches = 0

    def loss(self, batch: Tensor) -> Tensor:
        with Path(FOLDER, "seen.txt").open("a") as file:
            file.write(f"{self.training} {batch.sum().item()}\n")
        loss: Tensor = self.net(batch).pow(2).mean()
        self.batches += not self.trainer.sanity_checking
        if STOP and self.batches == int(AT):
            if STOP == "raise":
                raise RuntimeError("stopped")
            os.kill(os.getpid(), signal.SIGKILL if STOP == "kill" else signal.SIGTERM)
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.loss(batch) + torch.rand(()), on_step=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


def main() -> None:
    torch.manual_seed(int(SEED))
    random.seed(int(SEED))
    np.random.seed(int(SEED))
    periodic = ModelCheckpoint(FOLDER, "{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        accumulate_grad_batches=2,
        val_check_interval=3,
        log_every_n_steps=1,
        logger=CSVLogger(FOLDER),
        callbacks=[periodic, OnExceptionCheckpoint(FOLDER)],
        discover_callbacks=False,
        enable_model_summary=False,
    )
    module = Net()
    how: Any = {"shuffle": True, "num_workers": int(WORKERS)}
    loaders = (DataLoader(Noisy(), batch_size=2, **how), DataLoader(Noisy(), batch_size=4, **how))
    trainer.fit(module, *loaders, ckpt_path=CKPT_PATH or None)
    end = dump(trainer)
    del end["loggers"], end["callbacks"]
    rows = Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines()
    torch.save({"end": end, "rows": rows}, Path(FOLDER, "end.pt"))


if __name__ == "__main__":
    main()
