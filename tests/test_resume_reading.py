"""An exception while a batch is read: whoever goes on reads that batch again, with the same random numbers."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump


class Unreadable(Exception):
    """What a broken file, or a full memory, ends a run with."""


class Noisy(Dataset[Tensor]):
    """Items that draw from every generator; the `fails_at`-th that is read, in whichever loader, cannot be."""

    read, fails_at = 0, 0

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        noise = torch.rand(4) + random.random() + float(np.random.rand())
        Noisy.read += 1
        if Noisy.read == Noisy.fails_at:
            raise Unreadable
        return torch.linspace(-1, 1, 4) * (index + 1) / self.length + 0.1 * noise


class Terminated(Dataset[Tensor]):
    """Items by their index alone; as the `fails_at`-th is read the signal comes, and torch finds its workers gone."""

    read, fails_at = 0, 0

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        Terminated.read += 1
        if Terminated.read == Terminated.fails_at:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
        return torch.linspace(0, 1, 4) * (index + 1)


class FailsInAWorker(Dataset[Tensor]):
    """Items by their index alone, of which one cannot be read as long as there is that file."""

    def __init__(self, length: int, broken: Path) -> None:
        self.length, self.broken = length, broken

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if index == 5 and self.broken.exists():
            raise Unreadable
        return torch.linspace(0, 1, 4) * (index + 1)


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.seen: list[float] = []

    def loss(self, batch: Tensor) -> Tensor:
        self.seen.append(float(batch.sum()))
        loss: Tensor = self.net(batch).pow(2).mean()
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", self.loss(batch) + torch.rand(()), on_step=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def plain(length: int) -> Any:
    return DataLoader(Noisy(length), batch_size=2, shuffle=True)


def with_a_generator(length: int) -> Any:
    return DataLoader(Noisy(length), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(length))


def stateful(length: int) -> Any:
    module = pytest.importorskip("torchdata.stateful_dataloader")
    with warnings.catch_warnings(action="ignore"):  # it calls what torch has deprecated
        return module.StatefulDataLoader(Noisy(length), batch_size=2, shuffle=True)


def fit(
    folder: Path, seed: int, loader: Callable[[int], Any], *callbacks: Any, ckpt_path: Any = None
) -> dict[str, Any] | None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    Noisy.read = 0
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=2, val_check_interval=2, num_sanity_val_steps=0,
        log_every_n_steps=1, logger=CSVLogger(folder), callbacks=list(callbacks), discover_callbacks=False,
    )  # fmt: skip
    module = Net()
    try:
        trainer.fit(module, loader(8), [loader(4), loader(4)], ckpt_path=ckpt_path)
    except (Unreadable, SystemExit):  # by the exception, or by the signal
        return None
    end = dump(trainer)
    del end["loggers"], end["callbacks"], end["callback_versions"]
    del end["loops"]["fit_loop"]["draws"]  # of loaders that will not be read again
    rows = Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines()
    return {"end": end, "rows": rows, "seen": module.seen}


# The training of an epoch reads 8 items in batches of 2, and each of its two validations 4 and 4.
@pytest.mark.parametrize("at", [1, 4, 6, 9, 14, 24, 26, 32])
@pytest.mark.parametrize("loader", [plain, with_a_generator, stateful])
def test_a_batch_that_could_not_be_read_is_read_again(
    tmp_path: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    monkeypatch: pytest.MonkeyPatch,
    loader: Callable[[int], Any],
    at: int,
) -> None:
    whole = fit(tmp_path / "whole", 1, loader)
    saver = OnExceptionCheckpoint(tmp_path)
    monkeypatch.setattr(Noisy, "fails_at", at)
    assert fit(tmp_path / "cut", 1, loader, saver) is None
    monkeypatch.setattr(Noisy, "fails_at", 0)
    resumed = fit(tmp_path / "cut", 9, loader, ckpt_path=saver.ckpt_path)
    assert whole is not None
    assert resumed is not None
    resumed["seen"] = whole["seen"][: len(whole["seen"]) - len(resumed["seen"])] + resumed["seen"]
    assert not list(named_differences(resumed, whole))


def test_a_batch_that_could_not_be_read_in_a_worker_is_read_again(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]]
) -> None:
    def loader(length: int) -> Any:
        return DataLoader(FailsInAWorker(length, tmp_path / "broken"), batch_size=2, shuffle=True, num_workers=2)

    whole = fit(tmp_path / "whole", 1, loader)
    (tmp_path / "broken").touch()
    saver = ModelCheckpoint(tmp_path / "kept", save_on_exception=True)
    assert fit(tmp_path / "cut", 1, loader, saver) is None
    (tmp_path / "broken").unlink()
    resumed = fit(tmp_path / "cut", 9, loader, ModelCheckpoint(tmp_path / "kept"), ckpt_path="auto")
    assert whole is not None
    assert resumed is not None
    resumed["seen"] = whole["seen"][: len(whole["seen"]) - len(resumed["seen"])] + resumed["seen"]
    assert not list(named_differences(resumed, whole))


@pytest.mark.parametrize("fails_at", [1, 4, 25, 27])  # the first item of each epoch, and one of a later batch
def test_a_signal_that_takes_the_workers_too_is_exact_where_a_batch_is_read(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]], fails_at: int
) -> None:
    def fit_on(folder: str, seed: int, at: int = 0) -> dict[str, Any] | None:
        Terminated.read, Terminated.fails_at = 0, at
        saver = ModelCheckpoint(tmp_path / folder / "kept")
        return fit(
            tmp_path / folder,
            seed,
            lambda length: DataLoader(Terminated(length), batch_size=2, shuffle=True),
            saver,
            ckpt_path="auto",
        )

    whole = fit_on("whole", 1)
    assert fit_on("cut", 1, fails_at) is None
    resumed = fit_on("cut", 9)
    assert whole is not None
    assert resumed is not None
    resumed["seen"] = whole["seen"][: len(whole["seen"]) - len(resumed["seen"])] + resumed["seen"]
    assert not list(named_differences(resumed, whole))


class SaveAsABatchBegins(Callback):
    def __init__(self, path: Path, at: tuple[int, int]) -> None:
        self.path, self.at = path, at

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("loader", [plain, with_a_generator, stateful])
@pytest.mark.parametrize("epoch", [0, 1])
def test_a_checkpoint_made_as_an_epochs_first_batch_begins_draws_its_order_again(
    tmp_path: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    loader: Callable[[int], Any],
    epoch: int,
) -> None:
    path = tmp_path / "a.ckpt"
    whole = fit(tmp_path / "whole", 1, loader, SaveAsABatchBegins(path, (epoch, 0)))
    resumed = fit(tmp_path / "resumed", 9, loader, SaveAsABatchBegins(path, (-1, 0)), ckpt_path=path)
    assert whole is not None
    assert resumed is not None
    resumed["seen"] = whole["seen"][: len(whole["seen"]) - len(resumed["seen"])] + resumed["seen"]
    assert not list(named_differences({**resumed, "rows": []}, {**whole, "rows": []}))
