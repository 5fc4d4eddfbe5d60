"""Modules that do not log the same in each process, or log in groups of them, and what comes of it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tests.parallel_data import Numbers, Rows, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.runtime import agreement

__all__ = ["DIFFERENCES", "agreeing", "different", "measured", "refused"]


class Plain(LightningModule):
    """Trains and validates, and logs nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.001)


class InSteps(Plain):
    """Each process logs a name of its own in training."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("same", 1.0, sync_dist=True)
        self.log(f"of_{self.global_rank}", 1.0, sync_dist=True)
        return super().training_step(batch, batch_idx)


class OneMore(Plain):
    """Process 1 logs what process 0, which logs nothing at all, does not."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.global_rank == 1:
            self.log("more", 1.0, sync_dist=True)


class AtTheEnd(Plain):
    """Process 0 alone logs in a hook of the end."""

    def on_validation_epoch_end(self) -> None:
        if self.global_rank == 0:
            self.log("first", 1.0, sync_dist=True)


class OtherArguments(Plain):
    """The processes want the same name in two ways."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("value", 1.0, reduce_fx=["mean", "sum"][self.global_rank], sync_dist=True)


class OneAlone(Plain):
    """Process 0 alone wants a value of all."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("value", 1.0, sync_dist=self.global_rank == 0)
        return super().training_step(batch, batch_idx)


DIFFERENCES: dict[str, Callable[[], Plain]] = {
    kind.__name__: kind for kind in (InSteps, OneMore, AtTheEnd, OtherArguments, OneAlone)
}


def _fit(module: Plain, val_loader: Any = None, **settings: Any) -> Trainer:
    run = trainer("auto", **{"log_every_n_steps": 2, **settings})
    run.fit(module, DataLoader(Numbers(16), batch_size=2), val_loader or DataLoader(Numbers(8), batch_size=2))
    return run


def different() -> dict[str, str]:
    """Run each of `DIFFERENCES`, and return what its error says."""
    agreement._TAKING_NOTE_S = 0.1
    said = {}
    for name, kind in DIFFERENCES.items():
        try:
            _fit(kind())
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


class Grouped(Plain):
    """Logs values of some processes, of one, and of each."""

    def setup(self, stage: str) -> None:
        self.pair, self.second = dist.new_group([0, 1]), dist.new_group([1])

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        value = float(self.global_rank + 1)
        self.log("all", value, sync_dist=True, on_step=True, on_epoch=True)
        self.log("pair", value, sync_dist=True, sync_dist_group=self.pair, on_epoch=True, reduce_fx="max")
        if self.global_rank == 1:
            self.log("second", value, sync_dist=True, sync_dist_group=self.second, on_epoch=True)
        self.log("own", value, on_epoch=True)
        self.log("first", value, rank_zero_only=True, on_epoch=True, sync_dist=True)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("late", float(batch_idx + self.global_rank), sync_dist=True, on_step=True)


class Sometimes(Plain):
    """Process 1 logs in some batches only what both have logged once; what it has then counts."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == 0 or self.global_rank == 0 or batch_idx == 3:
            self.log("some", float(batch_idx), sync_dist=True, on_step=True, on_epoch=True)
        return super().training_step(batch, batch_idx)


class AtEnd(Callback):
    """Monitors: sees what the module has logged at the end of an epoch, of all processes."""

    position = "monitor"

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen = {name: float(value) for name, value in trainer.callback_metrics.items()}


class Summed(Plain):
    """Logs at an epoch's end."""

    def on_train_epoch_end(self) -> None:
        self.log("at_end", float(self.global_rank), sync_dist=True, reduce_fx="sum")


class Validated(Plain):
    """Logs for each batch of the validation, of which process 0 has fewer."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("at", float(batch_idx), sync_dist=True, on_step=True, on_epoch=False)


def agreeing() -> dict[str, Any]:
    """Run the modules that log in groups, now and then, and at the end; return metrics, rows and warnings."""
    found: dict[str, Any] = {}
    for kind in (Grouped, Sometimes, Summed):
        rows, at_end = Rows(), AtEnd()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            run = _fit(kind(), logger=rows, callbacks=[at_end], limit_val_batches=0)
        found[kind.__name__] = {
            "metrics": {name: float(value) for name, value in run.callback_metrics.items()},
            "rows": rows.rows,
            "seen": at_end.seen,
            "warned": [str(one.message) for one in warned if "sync_dist" in str(one.message)],
        }
    rank, rows = int(os.environ["RANK"]), Rows()
    batches = [torch.ones(2, 4)] * (1 + rank)
    _fit(Validated(), batches, logger=rows, max_epochs=2, use_distributed_sampler=False)
    return {"rank": rank, **found, "validated": [at for at, row in rows.rows if "at" in row]}


class ReadsAlone(Callback):
    """Reads the metrics in process 0 alone, in hooks in which a metric of torchmetrics may be computed."""

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            dict(trainer.callback_metrics)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_batch_end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_batch_end(trainer)


def measured(*sizes: int) -> list[Any]:
    """Validate on so many rows with metrics of torchmetrics, logged in steps and at the end; return them, or errors."""
    import torchmetrics

    class Measured(Plain):
        wanted = ""

        def __init__(self) -> None:
            super().__init__()
            self.mean = torchmetrics.MeanMetric()
            self.error = torchmetrics.MeanSquaredError()
            self.several = torchmetrics.MetricCollection(
                {"max": torchmetrics.MaxMetric(), "min": torchmetrics.MinMetric()}, prefix="of_"
            )
            self.kept = torchmetrics.AUROC(task="binary")  # with values of all batches as its state

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            first = batch[:, 0]
            self.mean.update(first)
            self.error.update(first, first + first % 3)
            self.several.update(first)
            self.kept.update((first + 1) / 20, (first % 3 > 0).long())
            self.log("mean", self.mean)
            self.log("several", self.several)
            if self.wanted:
                self.log("kept", self.kept, sync_dist=True)

        def on_validation_epoch_end(self) -> None:
            self.log("error", self.error)
            self.log("computed", self.mean.compute())

    found: list[Any] = []
    for size in sizes:
        for kept in ("kept", ""):
            module, run = Measured(), trainer("auto", callbacks=[ReadsAlone()])
            module.wanted = kept
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of torchmetrics: without data it computes what was never updated
                    run.validate(module, DataLoader(Numbers(size), batch_size=2), verbose=False)
                found.append({name: float(value) for name, value in run.callback_metrics.items()})
            except Exception as error:
                found.append(f"{type(error).__name__}: {error}")
    return found


def refused() -> dict[str, str]:
    """Log metrics of torchmetrics in ways in which it would wait for ever, and gather; return what is said."""
    import torchmetrics
    from torchmetrics.retrieval import RetrievalMRR

    agreement._TAKING_NOTE_S = 0.1

    class Refused(Plain):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how, self.mean = how, torchmetrics.MeanMetric(sync_on_compute=how != "of its own")
            self.kept = RetrievalMRR()

        def setup(self, stage: str) -> None:
            self.group = dist.new_group([0, 1])

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.mean.update(batch[:, 0])
            if self.how in ("of the first", "of its own"):
                self.log("mean", self.mean, rank_zero_only=True)
            elif self.how == "of a group":
                self.log("mean", self.mean, sync_dist_group=self.group)
            elif self.how == "gathered":
                self.gathered = batch[:, 0]
            else:
                self.kept.update(batch[:, 0].sigmoid(), batch[:, 0] > 0, batch[:, 0].long())
                self.log("kept", self.kept)

        def on_validation_epoch_end(self) -> None:
            if self.how == "gathered":
                self.log("sum", self.all_gather({"rows": self.gathered, "rank": self.global_rank})["rows"].sum())

    said = {}
    cases = {"of the first": 5, "of a group": 5, "kept": 5, "of its own": 5, "kept alike": 4}
    for how, size in (*cases.items(), ("gathered", 3), ("gathered", 4)):
        run = trainer("auto")
        try:
            run.validate(Refused(how), DataLoader(Numbers(size), batch_size=2), verbose=False)
            said[f"{how}, {size}"] = str({name: float(value) for name, value in run.callback_metrics.items()})
        except Exception as error:
            said[f"{how}, {size}"] = f"{type(error).__name__}: {error}"
    return said
