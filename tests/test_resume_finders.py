"""What finders find holds from the first step on, as if it had been given; a fit that resumes takes it over."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import (
    BatchSizeFinder,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from leyden.loggers import CSVLogger


class Cut(Exception):
    """Ends a run as a crash would."""


class Net(LightningModule):
    """Takes a learning rate and a batch size as hyperparameters; too large a batch does not fit."""

    steps_made = 0  # in trials and runs, of all instances
    cut_at = 0

    def __init__(self, lr: float = 0.01, batch_size: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2))
        self.head = nn.Linear(6, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        Net.steps_made += 1
        if Net.steps_made == Net.cut_at:
            raise Cut
        if len(batch) > 9:
            raise torch.OutOfMemoryError("Tried to allocate more than there is.")
        loss: Tensor = self.head(self.body(batch)).sub(batch.sum(1, keepdim=True)).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.head(self.body(batch)).square().mean() + torch.rand(()))

    def train_dataloader(self) -> Any:
        rows: Any = torch.linspace(-1, 1, 160).view(40, 4)
        return DataLoader(rows, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        rows: Any = torch.linspace(-1, 1, 32).view(8, 4)
        return DataLoader(rows, batch_size=self.batch_size, shuffle=True)

    def configure_optimizers(self) -> Any:
        groups = [{"params": self.body.parameters(), "lr": self.hparams.lr / 10}, {"params": self.head.parameters()}]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams.lr)
        total = int(self.trainer.estimated_stepping_batches)
        rates = [self.hparams.lr / 10, self.hparams.lr]
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def fit(
    folder: Path, finders: list[Callback], callbacks: list[Callback] | None = None, ckpt_path: Any = None,
    seed: int = 3, sanity: int = 2, **hparams: Any,
) -> tuple[Trainer, dict[str, Any]]:  # fmt: skip
    torch.manual_seed(seed)
    module = Net(**hparams)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=CSVLogger(folder, name="csv"),
        callbacks=[*finders, EMAWeightAveraging(decay=0.8), *(callbacks or [])],
        discover_callbacks=False,
        log_every_n_steps=1,
        accumulate_grad_batches=2,
        num_sanity_val_steps=sanity,
    )
    trainer.fit(module, ckpt_path=ckpt_path)
    with Path(trainer.log_dir or "", "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return trainer, {
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "optimizer": repr(trainer.optimizers[0].state_dict()),
        "scheduler": repr(trainer.lr_scheduler_configs[0].scheduler.state_dict()),
        "rows": rows,
        "rng": torch.get_rng_state().tolist(),
        "hparams": dict(module.hparams),
        "batch_size": module.batch_size,
        "steps": trainer.global_step,
    }


def rate_finder() -> LearningRateFinder:
    return LearningRateFinder(1e-4, 1.0, 30)


FINDERS: dict[str, Callable[[], list[Callback]]] = {
    "rate": lambda: [rate_finder()],
    "batch size": lambda: [BatchSizeFinder("binsearch", margin=0.0)],
    "both": lambda: [rate_finder(), BatchSizeFinder()],
}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Net.steps_made = Net.cut_at = 0


@pytest.mark.parametrize("which", FINDERS)
def test_what_is_found_is_as_if_it_had_been_given(tmp_path: Path, which: str) -> None:
    finders = FINDERS[which]()
    trainer, found = fit(tmp_path / "found", finders)
    assert trainer.callbacks[: len(finders)] == sorted(finders, key=lambda one: type(one).__name__)
    hparams, batch_size = found["hparams"], found["batch_size"]
    assert batch_size == {"rate": 2, "batch size": 9, "both": 8}[which]
    assert (hparams["lr"] == 0.01) == (which == "batch size")
    _, given = fit(tmp_path / "given", [], **{**hparams, "batch_size": batch_size})
    for part, value in given.items():
        assert found[part] == value, part


@pytest.mark.parametrize("which", FINDERS)
@pytest.mark.parametrize("batches", [3, 7, 12])
@pytest.mark.parametrize("how", ["periodic", "exception"])
def test_a_fit_that_resumes_takes_over_what_was_found(tmp_path: Path, which: str, batches: int, how: str) -> None:
    _, straight = fit(tmp_path / "straight", FINDERS[which]())
    made, in_run = Net.steps_made, 3 * {2: 20, 8: 5, 9: 5}[straight["batch_size"]]
    folder = tmp_path / "checkpoints"

    def saver() -> Callback:
        if how == "exception":
            return OnExceptionCheckpoint(folder)
        return ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, save_last=True)

    Net.steps_made, Net.cut_at = 0, made - in_run + batches
    with pytest.raises(Cut):
        fit(tmp_path / "cut", FINDERS[which](), [saver()])
    (path,) = folder.glob("last.ckpt" if how == "periodic" else "*.ckpt")
    Net.steps_made = Net.cut_at = 0
    _, resumed = fit(tmp_path / "cut", FINDERS[which](), [saver()], ckpt_path=path, seed=99)
    assert Net.steps_made <= in_run  # nothing was searched for again
    for part, value in straight.items():
        assert resumed[part] == value, part


def test_a_checkpoint_of_a_fit_without_a_finder_is_gone_on_from_without_a_search(tmp_path: Path) -> None:
    _, straight = fit(tmp_path / "straight", [])
    fit(tmp_path / "cut", [], [ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1)])
    path = next(tmp_path.glob("*step=7.ckpt"))
    finders: list[Callback] = [rate_finder(), BatchSizeFinder()]
    Net.steps_made = 0
    _, resumed = fit(
        tmp_path / "cut", finders, [ModelCheckpoint(tmp_path, every_n_train_steps=7, save_top_k=-1)], path, seed=99
    )
    assert Net.steps_made == 46
    assert resumed == straight


class Saves(Callback):
    """Saves the run whenever it is cut."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("which", FINDERS)
@pytest.mark.parametrize("step", [1, 5, 11])
def test_a_search_that_was_cut_short_is_made_anew(tmp_path: Path, which: str, step: int) -> None:
    _, straight = fit(tmp_path / "straight", FINDERS[which](), sanity=0)
    made, path = Net.steps_made, tmp_path / "cut.ckpt"
    Net.steps_made, Net.cut_at = 0, step
    with pytest.raises(Cut):
        fit(tmp_path / "cut", FINDERS[which](), [Saves(path)], sanity=0)
    Net.steps_made = Net.cut_at = 0
    _, resumed = fit(tmp_path / "cut", FINDERS[which](), ckpt_path=path, seed=99, sanity=0)
    assert Net.steps_made == made
    for part, value in straight.items():
        assert resumed[part] == value, part


class EachEpoch(LearningRateFinder):
    """Searches when an epoch begins, instead of when the fit does."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not here."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch in (0, 2):
            self.lr_find(trainer, pl_module)


class SizeEachEpoch(BatchSizeFinder):
    """The same for batch sizes."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not here."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.scale_batch_size(trainer, pl_module)


NESTED: dict[str, Callable[[], list[Callback]]] = {
    "rate": lambda: [EachEpoch(1e-4, 1.0, 20)],
    "rate, told alone": lambda: [EachEpoch(1e-4, 1.0, 20, update_attr=False)],
    "batch size": lambda: [SizeEachEpoch()],
}


def test_a_search_within_a_training_leaves_no_trace(tmp_path: Path) -> None:
    _, without = fit(tmp_path / "without", [])
    finder = EachEpoch(1e-4, 1.0, 20, update_attr=False)
    _, with_it = fit(tmp_path / "with", [finder])
    assert finder.optimal_lr is not None
    assert with_it == without


@pytest.mark.parametrize("which", NESTED)
def test_a_search_within_a_training_that_is_cut_short_is_made_anew(tmp_path: Path, which: str) -> None:
    _, straight = fit(tmp_path / "straight", NESTED[which]())
    made = Net.steps_made
    for step in range(1, made + 1, 23):
        Net.steps_made, Net.cut_at = 0, step
        folder = tmp_path / str(step)
        with pytest.raises(Cut):
            fit(folder, NESTED[which](), [OnExceptionCheckpoint(folder)])
        (path,) = folder.glob("*.ckpt")
        Net.steps_made = Net.cut_at = 0
        _, resumed = fit(folder, NESTED[which](), [OnExceptionCheckpoint(folder)], ckpt_path=path, seed=99)
        for part, value in straight.items():
            assert resumed[part] == value, (step, part)
