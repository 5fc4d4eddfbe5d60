"""Runs on data that processes share unevenly, and what one process makes of all of it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import Logger
from leyden.runtime.ddp import DDPStrategy

__all__ = ["CountingStrategy", "Numbers", "Rows", "evaluated", "saved", "trained"]


def in_processes() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def trainer(strategy: Any = "auto", **settings: Any) -> Trainer:
    """A Trainer on CPU that writes nothing."""
    given: dict[str, Any] = {"logger": False, "max_epochs": 1, "num_sanity_val_steps": 0, **settings}
    return Trainer(strategy=strategy, accelerator="cpu", discover_callbacks=False, **given)


class Numbers(Dataset[Tensor]):
    """Rows of four numbers, the first of which is the row's index."""

    def __init__(self, size: int) -> None:
        self.rows = torch.randn(size, 4, generator=torch.Generator().manual_seed(5))
        self.rows[:, 0] = torch.arange(size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


class Rows(Logger):
    """Keeps what it is given."""

    name, version = "rows", 0

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


class CountingStrategy(DDPStrategy):
    """Keeps what was sent for metrics: the operation and the number of values."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str | None, int]] = []

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        self.sent.append((reduce_op, tensor.numel()))
        return super().reduce(tensor, group, reduce_op)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        self.sent.append(("gather", tensor.numel()))
        return super().all_gather(tensor, group, sync_grads)


class Measuring(LightningModule):
    """Logs in every way; `seen` are the rows it was given, by hook."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)
        self.seen: dict[str, list[int]] = {}

    def forward(self, batch: Tensor) -> Tensor:
        found: Tensor = self.layer(batch)
        return found

    def _see(self, batch: Tensor, stage: str) -> Tensor:
        self.seen.setdefault(stage, []).extend(batch[:, 0].int().tolist())
        return batch[:, 0]

    def _evaluate(self, stage: str, batch: Tensor, several: bool = False) -> None:
        self(batch[:, :1].expand(-1, 4))  # gathers weights where they are in shards
        values = self._see(batch, stage)
        everywhere: dict[str, Any] = {"sync_dist": True}
        self.log(f"{stage}_mean", values.mean(), **everywhere)
        self.log(f"{stage}_sum", values.sum(), reduce_fx="sum", **everywhere)
        self.log(f"{stage}_max", values.max(), reduce_fx="max", **everywhere)
        self.log(f"{stage}_min", values.min(), reduce_fx="min", **everywhere)
        self.log(f"{stage}_count", len(values), reduce_fx="sum", prog_bar=True, **everywhere)
        self.log(f"{stage}_own", values.max(), reduce_fx=largest, **everywhere)
        self.log(f"{stage}_graph", values.mean(), enable_graph=True, **everywhere)

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self.log("val_at_end", float(self.global_rank + 1), sync_dist=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._evaluate("test", batch)
        self.log("at_step", batch[:, 0].sum(), on_step=True, on_epoch=True, reduce_fx="sum", sync_dist=True)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self._see(batch, "predict").int().tolist()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._see(batch, "train")
        loss: Tensor = self.layer(batch[:, 1:2].repeat(1, 4)).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def largest(values: Tensor) -> Tensor:
    """A function of one's own."""
    return values.max()


class Hooks(Callback):
    """Notes which hooks were called, and what rank 0 alone reads in them."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.read: list[dict[str, float]] = []

    def _note(self, trainer: Trainer, name: str) -> None:
        self.called.append(name)
        if trainer.is_global_zero:  # a look of one process waits for nobody
            _ = trainer.logged_metrics, trainer.progress_bar_metrics
            self.read.append({key: float(value) for key, value in trainer.callback_metrics.items()})

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "start")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._note(trainer, "batch")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "epoch_end")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "end")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._note(trainer, "train_batch")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "train_epoch_end")


def evaluated(size: int, batch_size: int, strategy: str = "ddp") -> dict[str, Any]:
    """Validate, test and predict on so many rows."""
    module, hooks, rows = Measuring(), Hooks(), Rows()
    counting = CountingStrategy() if in_processes() > 1 and strategy == "ddp" else None
    run = trainer(counting or (strategy if in_processes() > 1 else "auto"), callbacks=[hooks], logger=rows)

    def loader() -> DataLoader[Any]:
        return DataLoader(Numbers(size), batch_size=batch_size)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validated = run.validate(module, loader(), verbose=False)
        metrics = {name: float(value) for name, value in run.callback_metrics.items()}
        sent = [] if counting is None else list(counting.sent)
        tested = run.test(module, loader(), verbose=False)
        predicted = run.predict(module, loader())
        several = run.validate(module, [loader(), DataLoader(Numbers(1))], verbose=False)
    return {
        "validated": validated, "metrics": metrics, "sent": sent, "tested": tested, "predicted": predicted,
        "several": several, "seen": module.seen, "called": hooks.called, "read": hooks.read, "rows": rows.rows,
    }  # fmt: skip


def all_evaluated(*cases: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return `evaluated` of several cases, one after the other."""
    return [evaluated(*case) for case in cases]


def trained(log_every: int, batches: int) -> dict[str, Any]:
    """Train for two epochs of so many batches for each process, validating after each."""
    world = in_processes()
    counting = CountingStrategy() if world > 1 else None
    module, hooks, rows = Measuring(), Hooks(), Rows()
    run = trainer(counting or "auto", max_epochs=2, log_every_n_steps=log_every, callbacks=[hooks], logger=rows)
    data, batch_size = Numbers(8 * batches), 8 // world
    run.fit(module, DataLoader(data, batch_size=batch_size), DataLoader(Numbers(5), batch_size=2))
    return {
        "metrics": {name: float(value) for name, value in run.callback_metrics.items()},
        "sent": [] if counting is None else counting.sent,
        "rows": rows.rows,
        "read": hooks.read,
        "steps": [run.num_training_batches, run.estimated_stepping_batches, run.global_step],
        "seen": module.seen["train"],
    }


def saved(folder: str) -> dict[str, Any]:
    """Train with checkpoints by steps that are ranked by a step's loss, and one by the validation's."""
    by_step = ModelCheckpoint(folder, filename="{step}", monitor="loss_step", every_n_train_steps=1, save_top_k=-1)
    run = trainer("auto", max_epochs=1, log_every_n_steps=2, callbacks=[by_step])
    run.fit(Measuring(), DataLoader(Numbers(40), batch_size=8 // in_processes()))
    best = {Path(path).name: float(score) for path, score in by_step.best_k_models.items()}
    return {"best": best, "steps": run.global_step}
