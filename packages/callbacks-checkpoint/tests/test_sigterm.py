"""SIGTERM, as before a preemption: the batch is finished, the run saved once, and the next goes on exactly."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.state import storage
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint, OnExceptionCheckpoint

FOLDERS = itertools.count()


class Dropping(BoringModule):
    """Four shuffled batches an epoch, dropout, Adam: what is lost or repeated shows in the weights."""

    def __init__(self) -> None:
        super().__init__(batches={"train": 4, "val": 2})

    def loss(self, batch: Tensor) -> Tensor:
        return torch.nn.functional.dropout(self(batch), 0.5, self.training).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch) + torch.rand(()))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(super().train_dataloader().dataset, batch_size=2, shuffle=True)


class TerminateAt(Callback):
    """Sends the signal at the so-manieth batch, of training and validation; the batch goes on, and is counted."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.begun, self.ended = at, 0, 0

    def begin(self) -> None:
        self.begun += 1
        if self.begun == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.begin()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.ended += 1

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.ended += 1


def trained(seed: int, *callbacks: Callback, ckpt_path: str | None = None, **given: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    module = Dropping()
    quiet = {"max_epochs": 2, "logger": False, "num_sanity_val_steps": 0, "discover_callbacks": False}
    Trainer(callbacks=list(callbacks), **(quiet | given)).fit(module, ckpt_path=ckpt_path)
    return module.state_dict()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    at=st.integers(1, 12),
    accumulate=st.sampled_from([1, 2, 3]),
    monitor=st.sampled_from([None, "val_loss"]),
    how=st.sampled_from([{}, {"save_last": True}, {"save_last": "link"}, {"asynchronous": True}]),
)
def test_a_checkpoint_callback_as_it_comes_saves_the_run_and_another_goes_on_exactly(
    at: int, accumulate: int, monitor: str | None, how: dict[str, Any]
) -> None:
    """Also in the middle of an accumulation window, and between the batches of a validation."""
    folder = f"kept{next(FOLDERS)}"
    given: dict[str, Any] = {"accumulate_grad_batches": accumulate, "val_check_interval": 2, "max_epochs": 2}
    whole = trained(1, **given)
    terminate = TerminateAt(at)
    with pytest.raises(SystemExit) as ended:
        trained(1, ModelCheckpoint(folder, monitor=monitor, **how), terminate, **given)
    assert ended.value.code == 143
    assert terminate.ended == terminate.begun  # the batch was finished
    assert not [path for path in Path(folder).iterdir() if path.suffix != ".ckpt"]
    go_on = TerminateAt()
    resumed = trained(9, ModelCheckpoint(folder, monitor=monitor, **how), go_on, ckpt_path="auto", **given)
    for name, weight in whole.items():
        assert torch.equal(resumed[name], weight)
    assert terminate.ended + go_on.ended == 16  # no batch was lost or repeated


class TerminateAll(TerminateAt):
    """Another process sends the signal to this one and its workers, as Slurm does, and they are gone in the batch."""

    def begin(self) -> None:
        self.begun += 1
        if self.begun == self.at:
            workers = multiprocessing.active_children()
            pids = [os.getpid(), *(worker.pid for worker in workers)]
            subprocess.run([sys.executable, "-c", f"import os\nfor pid in {pids}: os.kill(pid, 15)"], check=True)
            for worker in workers:
                worker.join()
            assert [worker.exitcode for worker in workers] == [-signal.SIGTERM] * 2


class Working(Dropping):
    def train_dataloader(self) -> Any:
        return DataLoader(BoringModule.train_dataloader(self).dataset, batch_size=2, shuffle=True, num_workers=2)


@pytest.mark.parametrize("callback", [ModelCheckpoint, OnExceptionCheckpoint])
def test_a_signal_to_the_workers_too_is_no_error_of_theirs(callback: type[ModelCheckpoint]) -> None:
    def fit(*callbacks: Callback, ckpt_path: str | None = None) -> dict[str, Tensor]:
        torch.manual_seed(1)
        module = Working()
        quiet: dict[str, Any] = {"logger": False, "limit_val_batches": 0, "discover_callbacks": False}
        Trainer(callbacks=list(callbacks), max_epochs=2, **quiet).fit(module, ckpt_path=ckpt_path)
        return module.state_dict()

    whole = fit()
    terminate, before = TerminateAll(6), signal.getsignal(signal.SIGCHLD)
    with pytest.raises(SystemExit) as ended:
        fit(callback("kept"), terminate)
    assert (ended.value.code, terminate.ended) == (143, 6)
    assert signal.getsignal(signal.SIGCHLD) is before
    resumed = fit(callback("kept"), ckpt_path="auto")
    for name, weight in whole.items():
        assert torch.equal(resumed[name], weight)


class Losing:
    """Two batches, of three; while the last is read, the signal arrives and torch finds its workers gone."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Any:
        yield from self.batches[:2]
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")


def test_workers_that_are_gone_when_a_batch_is_read_end_the_run_as_the_signal_does() -> None:
    def fit(loader: Any, *callbacks: Callback, ckpt_path: str | None = None) -> dict[str, Tensor]:
        torch.manual_seed(1)
        module = Dropping()
        quiet: dict[str, Any] = {"logger": False, "limit_val_batches": 0, "discover_callbacks": False}
        Trainer(callbacks=list(callbacks), max_epochs=2, **quiet).fit(module, loader, ckpt_path=ckpt_path)
        return module.state_dict()

    batches = list(Dropping().train_dataloader())[:3]
    whole = fit(batches)
    with pytest.raises(SystemExit) as ended:
        fit(Losing(batches), ModelCheckpoint("kept"))
    assert ended.value.code == 143
    assert isinstance(ended.value.__cause__, RuntimeError)
    resumed = fit(batches, ModelCheckpoint("kept"), ckpt_path="auto")
    for name, weight in whole.items():
        assert torch.equal(resumed[name], weight)


def test_one_callback_saves_and_no_more_than_it_takes() -> None:
    """The first that can save all of the run; who saves after exceptions does it in its place."""

    def written(*callbacks: Callback) -> list[str]:
        folder = Path(os.path.commonpath([str(callback.dirpath) for callback in callbacks]))  # type: ignore[attr-defined]
        with pytest.raises(SystemExit):
            trained(1, *callbacks, TerminateAt(2))
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ckpt"))

    def checkpoint(folder: str, **how: Any) -> ModelCheckpoint:
        return ModelCheckpoint(folder, "{step}", **how)

    assert written(checkpoint("a/1", every_n_epochs=1), checkpoint("a/2", every_n_epochs=2)) == ["1/step=2.ckpt"]
    assert written(
        checkpoint("b/1", save_weights_only=True, every_n_epochs=1), checkpoint("b/2", every_n_epochs=2)
    ) == ["2/step=2.ckpt"]
    assert written(
        checkpoint("c/1", save_weights_only=True), checkpoint("c/2", monitor="x", save_weights_only=True)
    ) == ["1/step=2.ckpt"]
    assert written(checkpoint("d/1", save_last=True), OnExceptionCheckpoint("d/2")) == ["2/on_exception.ckpt"]
    assert written(
        checkpoint("e/1", every_n_epochs=1), checkpoint("e/2", every_n_epochs=2, save_on_exception=True)
    ) == ["2/step=2.ckpt"]
    assert written(checkpoint("f/1", save_last=True), checkpoint("f/2", every_n_epochs=2)) == ["1/last.ckpt"]
    assert storage.load("f/1/last.ckpt")["global_step"] == 2


def test_what_was_just_saved_is_not_saved_again() -> None:
    with pytest.raises(SystemExit):
        trained(1, ModelCheckpoint("kept", "{step}", every_n_train_steps=1), TerminateAt(3))
    assert os.listdir("kept") == ["step=3.ckpt"]


def test_another_exception_is_no_reason_to_save() -> None:
    class Fail(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            raise RuntimeError("in the step")

    with pytest.raises(RuntimeError, match="in the step"):
        trained(1, ModelCheckpoint("kept"), Fail())
    assert not os.path.exists("kept")
