"""What the processes of `test_parallel_training` do, and what the single process does that they are compared with."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer

__all__ = ["PROCESSES", "FailAt", "Net", "SignalAt", "failed", "fit", "stopped"]

ACCELERATOR = "cuda" if torch.cuda.is_available() else "cpu"
PROCESSES = min(2, torch.cuda.device_count()) if ACCELERATOR == "cuda" else 2
"""One for a device: where there is one GPU, runs are of a group of one, by nccl."""

ROWS = 48
WORLD_BATCH = 8


class Net(LightningModule):
    """A small net on the same data in every process; batches are a share of 8 rows."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        self.batch_size = batch_size

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        self.log("loss", loss, sync_dist=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def train_dataloader(self) -> DataLoader[Any]:
        rows: Any = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(rows, batch_size=self.batch_size)


def fit(strategy: Any, trainer: dict[str, Any], kind: type[Net] = Net) -> dict[str, Any]:
    """Train for two epochs; return weights, metrics and steps."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    module = kind(WORLD_BATCH // world)
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": ACCELERATOR,
        "logger": False,
        "discover_callbacks": False,
    }
    run = Trainer(strategy=strategy, **{**settings, **trainer})
    run.fit(module)
    return {
        "weights": {name: _whole(value) for name, value in module.state_dict().items()},
        "metrics": {name: float(value) for name, value in run.callback_metrics.items()},
        "steps": run.global_step,
        "rank": run.global_rank,
        "strategy": type(run.strategy).__name__,
    }


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


class Adversaries(Net):
    """Two optimizers, stepped by hand in turn, each for a part of the net; gradients accumulate over two batches."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        ends = batch_idx % 2 == 1
        for optimizer in self.optimizers():
            with optimizer.toggle_model(sync_grad=ends):
                self.manual_backward(self.net(batch).square().mean() / 2)
            if ends:
                optimizer.step()
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for part in (self.net[0], self.net[2])]


class Unfreezing(Net):
    """Its first layer is trained from the second epoch on."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.net[0].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.net[0].requires_grad_(self.current_epoch > 0)


class SignalAt(Callback):
    """One process gets SIGTERM in a step."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            os.kill(os.getpid(), signal.SIGTERM)


class FailAt(SignalAt):
    """One process fails in a step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, self.step):
            raise ValueError(f"process {self.rank} cannot go on")


def stopped(rank: int) -> int:
    """Return at which step each process stops when one got SIGTERM."""
    module = Net(1)
    run = Trainer(
        max_epochs=10_000, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[SignalAt(rank, 5)]
    )
    try:
        run.fit(module)
    except SystemExit:
        return run.global_step
    raise AssertionError("nobody was stopped")


def failed(rank: int) -> None:
    """Fail in one process."""
    run = Trainer(
        max_epochs=10_000, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[FailAt(rank, 5)]
    )
    run.fit(Net(1))
