"""Exact resume of what steers a training by its steps: stopping, time, windows that change, spikes; all in one run."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cut_at import Cut, CutAt
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    SpikeDetection,
    Timer,
)
from leyden.loggers import CSVLogger


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        loss: Tensor = self.net(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss if batch_idx % 5 else None  # steps come later than batches say

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).pow(2).mean() + torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        steps = self.trainer.estimated_stepping_batches
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=int(steps))
        return [optimizer], [{"scheduler": one_cycle, "interval": "step"}]


def fit(folder: Path, seed: int, *callbacks: Callback, ckpt_path: str | None = None, **given: Any) -> dict[str, Any]:
    torch.manual_seed(seed)
    by_step, by_validation = EarlyStopping("loss", patience=9, check_every_n_steps=2), EarlyStopping("val", patience=6)
    steering = [
        by_step,
        by_validation,
        EarlyStopping("val", patience=4, min_delta=0.001, mode="max", check_every_n_steps=3),
        Timer("01:00:00:00"),
        GradientAccumulationScheduler({0: 2, 4: 1, 7: 3}, "step"),
        SpikeDetection(window=4, rtol=1e9),
        LearningRateMonitor("step"),
    ]
    trainer = Trainer(
        accelerator="cpu",
        logger=CSVLogger(folder),
        callbacks=[*steering, *callbacks],
        discover_callbacks=False,
        log_every_n_steps=1,
        default_root_dir=folder,
        **({"max_epochs": 4, "val_check_interval": 4} | given),
    )
    module, data = Net(), torch.linspace(-1, 1, 72).view(18, 4)
    train: Any = DataLoader(data, batch_size=2, shuffle=True)  # type: ignore[arg-type]  # a tensor is a dataset
    val: Any = DataLoader(data, batch_size=9)  # type: ignore[arg-type]
    trainer.fit(module, train, val, ckpt_path=ckpt_path)
    states = {entry.owner.state_key: entry.call() for entry in trainer.plan.entries("state_dict")}  # type: ignore[attr-defined]
    return {
        "states": repr({key: states[key] for key in states if "Timer" not in key and "Checkpoint" not in key}),
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "optimizer": repr(trainer.optimizers[0].state_dict()),
        "schedulers": repr(trainer.lr_scheduler_configs[0].scheduler.state_dict()),
        "stopped": (trainer.current_epoch, trainer.global_step, trainer.fit_loop.batches_seen, trainer.should_stop),
        "rows": Path(trainer.log_dir or "", "metrics.csv").read_text(),
    }


CUTS = [
    *((hook, at) for hook in ("train_batch", "batch_end") for at in range(8, 18)),
    *(("backward", at) for at in range(5, 16, 2)),
    *((hook, at) for hook in ("validation_batch", "validation_end", "epoch", "epoch_end") for at in (2, 3)),
]


SAVES: dict[str, Callable[[Path], Callback]] = {
    "on exceptions": lambda folder: OnExceptionCheckpoint(folder, "cut"),
    "each step": lambda folder: ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1),
}


def test_there_is_something_to_go_on_with(tmp_path: Path) -> None:
    whole = fit(tmp_path, 10)
    assert whole["stopped"] == (4, 14, 35, True)  # of 36 batches: it stops before the last
    assert "'reached': 7" in whole["states"]


@pytest.mark.parametrize("how", SAVES)
def test_a_run_that_is_cut_goes_on_exactly(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "run"  # the same for all: states hold paths
    whole = fit(folder, 10)
    for (hook, at), seed in zip(CUTS, itertools.count(20), strict=False):
        shutil.rmtree(folder)
        with pytest.raises(Cut):
            fit(folder, 10, CutAt(hook, at), SAVES[how](folder))
        newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        resumed = fit(folder, seed, SAVES[how](folder), ckpt_path=str(newest))
        for part in whole:
            assert resumed[part] == whole[part], (hook, at, part)


class Manual(Net):
    """Two optimizers, one of which steps twice as often and gathers gradients over two batches."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        often, seldom = self.optimizers()
        often.zero_grad()
        loss = self.net(batch).pow(2).mean()
        self.manual_backward(loss)
        self.log("loss", loss)
        often.step()
        if batch_idx % 2:
            seldom.step()
            seldom.zero_grad()

    def configure_optimizers(self) -> Any:
        first, last = self.net[0].parameters(), self.net[3].parameters()
        return [torch.optim.Adam(first, lr=0.01), torch.optim.SGD(last, lr=0.01, momentum=0.9)]


@pytest.mark.parametrize("how", SAVES)
def test_a_run_with_two_optimizers_stepped_by_hand_goes_on_exactly(tmp_path: Path, how: str) -> None:
    def run(*callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Any]:
        torch.manual_seed(1)
        stopping = EarlyStopping("loss", patience=5, check_every_n_steps=4)
        steering = [stopping, Timer("01:00:00:00", "epoch"), SpikeDetection(window=4, rtol=1e9)]
        trainer = Trainer(
            accelerator="cpu", max_epochs=4, logger=False, discover_callbacks=False, default_root_dir=tmp_path,
            callbacks=[*steering, *callbacks], num_sanity_val_steps=0,
        )  # fmt: skip
        module, data = Manual(), torch.linspace(-1, 1, 72).view(18, 4)
        train: Any = DataLoader(data, batch_size=2, shuffle=True)  # type: ignore[arg-type]
        trainer.fit(module, train, DataLoader(data, batch_size=9), ckpt_path=ckpt_path)  # type: ignore[arg-type]
        return {
            "states": repr([stopping.state_dict(), steering[-1].state_dict()]),
            "weights": {name: value.tolist() for name, value in module.state_dict().items()},
            "optimizers": repr([optimizer.state_dict() for optimizer in trainer.optimizers]),
            "stopped": (trainer.global_step, trainer.fit_loop.batches_seen, trainer.should_stop),
        }

    whole = run()
    assert whole["stopped"][0] > 20
    for hook, at in [("train_batch", 4), ("train_batch", 9), ("backward", 3), ("backward", 8), ("batch_end", 5),
                     ("batch_end", 12), ("validation_end", 1), ("epoch_end", 1)]:  # fmt: skip
        folder = tmp_path / f"{hook}{at}"
        with pytest.raises(Cut):
            run(CutAt(hook, at), SAVES[how](folder))
        newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        assert run(SAVES[how](folder), ckpt_path=newest) == whole, (hook, at)


@pytest.mark.parametrize("max_steps", range(1, 12))
def test_a_run_that_a_limit_ended_goes_on_as_if_the_limit_had_not_been(tmp_path: Path, max_steps: int) -> None:
    class Plain(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    def run(max_steps: int, ckpt_path: Path | None = None) -> dict[str, Any]:
        torch.manual_seed(1)
        scheduler = GradientAccumulationScheduler({0: 2, 4: 1, 7: 3}, "step")
        stopping = EarlyStopping("loss", patience=99, check_every_n_steps=2)
        trainer = Trainer(
            accelerator="cpu", max_epochs=3, max_steps=max_steps, logger=False, discover_callbacks=False,
            callbacks=[scheduler, stopping, SpikeDetection(rtol=1e9)], default_root_dir=tmp_path,
        )  # fmt: skip
        module = Plain()
        data: Any = DataLoader(torch.linspace(-1, 1, 72).view(18, 4), batch_size=2)  # type: ignore[arg-type]
        trainer.fit(module, data, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        weights = {name: value.tolist() for name, value in module.state_dict().items()}
        return {"weights": weights, "stopping": repr(stopping.state_dict()), "windows": scheduler.state_dict()}

    whole = run(-1)
    run(max_steps)
    assert run(-1, tmp_path / "end.ckpt") == whole
