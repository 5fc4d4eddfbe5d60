"""Exact resume with every callback that comes with Leyden in one run, each as it comes."""

from __future__ import annotations

import csv
import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cut_at import Cut, CutAt
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    Heartbeat,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    PrometheusExporter,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
    TQDMProgressBar,
)
from leyden.loggers import CSVLogger


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.head(self.backbone(batch)).pow(2).mean()
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.head(self.backbone(batch)).pow(2).mean() + torch.rand(()), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam([one for one in self.parameters() if one.requires_grad], lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


AVERAGING: dict[str, Callable[[], Callback]] = {
    "ema": lambda: EMAWeightAveraging(decay=0.9, update_starting_at_step=3),
    "swa": lambda: StochasticWeightAveraging(0.01, 2, annealing_epochs=2),
}


def all_of_them(folder: Path, averaging: str = "ema", **checkpoint: Any) -> list[Callback]:
    return [
        ModelCheckpoint(folder / "best", "{epoch}-{step}", monitor="val", save_top_k=2, save_last=True, **checkpoint),
        EarlyStopping("val", patience=2, min_delta=0.01),
        Timer("00:01:00:00"),
        LearningRateMonitor(),
        ThroughputMonitor(),
        DeviceStatsMonitor(cpu_stats=True),
        PrometheusExporter(port=0),
        Heartbeat(folder / "heartbeat.json", every_n_seconds=1e-9),
        TQDMProgressBar(),
        BackboneFinetuning(1, lambda epoch: 1.5),
        AVERAGING[averaging](),
        ModelSummary(),
    ]


def fit(folder: Path, seed: int, *callbacks: Callback, ckpt_path: str | None = None, **checkpoint: Any) -> Any:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    module = Net()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=6,
        logger=CSVLogger(folder),
        callbacks=[*all_of_them(folder, **checkpoint), *callbacks],
        discover_callbacks=False,
        log_every_n_steps=2,
        default_root_dir=folder,
    )
    data = torch.linspace(-1, 1, 32).view(8, 4)
    train: Any = DataLoader(data, batch_size=2, shuffle=True)  # type: ignore[arg-type]  # a tensor is a dataset
    val: Any = DataLoader(data, batch_size=4, shuffle=True)  # type: ignore[arg-type]
    trainer.fit(module, train, val, ckpt_path=ckpt_path)
    states = {entry.owner.state_key: entry.call() for entry in trainer.plan.entries("state_dict")}  # type: ignore[attr-defined]
    timer = next(key for key in states if key.startswith("Timer"))
    states[timer] = {key for key in states[timer] if states[timer][key]}  # times differ, what was timed does not
    assert all(totals.pop("time") > 0 for totals in states["ThroughputMonitor"].values())
    return {
        "states": repr(states),
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "optimizer": repr(trainer.optimizers[0].state_dict()),
        "files": sorted(os.listdir(folder / "best")),
        "stopped": (trainer.current_epoch, trainer.global_step, trainer.should_stop),
        "rows": rows_without_times(Path(trainer.log_dir or "", "metrics.csv")),
    }


def rows_without_times(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log but for what depends on how long things took, or what the machine was doing."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    varies = {name for name in rows[0] if name.endswith(("/time", "_per_sec")) or name.startswith("DeviceStatsMonitor")}
    return [{name: row[name] for name in row if name not in varies} for row in rows]


HOW: dict[str, tuple[dict[str, Any], list[tuple[str, int]]]] = {
    "periodic": ({"every_n_train_steps": 2}, [("epoch", 2), ("backward", 10), ("validation_batch", 4)]),
    "each epoch": ({}, [("train_batch", 6), ("validation_batch", 5)]),
    "at the stop": ({"save_on_exception": True}, [("backward", 10)]),
    "in the background": ({"asynchronous": True, "every_n_train_steps": 3}, [("train_batch", 6), ("backward", 11)]),
}


@pytest.mark.filterwarnings("ignore:.*checkpoints of the earlier run are gone")
@pytest.mark.parametrize("averaging", AVERAGING)
@pytest.mark.parametrize("how", HOW)
def test_all_callbacks_in_one_run(tmp_path: Path, how: str, averaging: str) -> None:
    folder = tmp_path / "run"  # the same for all: states hold paths
    arguments, cuts = HOW[how]
    arguments = {**arguments, "averaging": averaging}
    straight = fit(folder, 1, **arguments)
    for number, (hook, at) in zip(itertools.count(10), cuts, strict=False):
        shutil.rmtree(folder)
        with pytest.raises(Cut):
            fit(folder, 1, CutAt(hook, at), **arguments)
        resumed = fit(folder, number, ckpt_path="auto", **arguments)
        for part in straight:
            if part != "files":  # an earlier run's files are not this one's to delete
                assert resumed[part] == straight[part], (how, hook, at, part)
        assert set(resumed["files"]) >= set(straight["files"]), (how, hook, at)
