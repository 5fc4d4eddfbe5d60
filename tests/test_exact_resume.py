"""A run that is cut anywhere and gone on with, in another trainer, is bit for bit the run that was not cut."""

from __future__ import annotations

import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from leyden import Callback, CombinedLoader, LightningModule, Trainer
from leyden.loggers import CSVLogger


class Cut(Exception):
    """Ends a run as a crash would."""


class Noisy(Dataset[Tensor]):
    """Items with noise drawn from every generator, and a list of those that were read."""

    def __init__(self, length: int, noise: bool = True) -> None:
        self.length, self.noise = length, noise

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        item = torch.linspace(-1, 1, 4) * (index + 1) / self.length
        if self.noise:
            item = item + 0.01 * (torch.rand(4) + random.random() + float(np.random.rand()))
        return item


class Net(LightningModule):
    """Dropout, batch norm, metrics for steps and epochs, and hooks that leave traces in the weights."""

    def __init__(self, optimizer: str = "adam", scheduler: str = "none") -> None:
        super().__init__()
        self.optimizer_name, self.scheduler_name = optimizer, scheduler
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 1))
        self.trace: Tensor
        self.register_buffer("trace", torch.zeros(()))
        self.seen: list[float] = []

    def step(self, batch: Any) -> Tensor:
        parts = list(batch.values()) if isinstance(batch, dict) else batch if isinstance(batch, list) else [batch]
        losses = [self.net(part).pow(2).mean() for part in parts if part is not None]
        self.seen.append(float(sum(part.sum() for part in parts if part is not None)))
        loss: Tensor = torch.stack(losses).sum()
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.step(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=1)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trace += outputs["loss"]

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", self.step(batch) + torch.rand(()), on_step=True, on_epoch=True, batch_size=1)

    def on_validation_end(self) -> None:
        self.trace.add_(1)

    def on_train_epoch_end(self) -> None:
        self.log("trace", self.trace)

    def configure_optimizers(self) -> Any:
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "adam":
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        else:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = self.scheduler_name
        if scheduler == "none":
            return optimizer
        if scheduler == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "loss"}}
        step_lr = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": step_lr, "interval": scheduler}}


class ManualNet(Net):
    """The same by hand, with gradients that are gathered over two batches."""

    def __init__(self, optimizer: str = "adam", scheduler: str = "none") -> None:
        super().__init__(optimizer, scheduler)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss / 2)
        if batch_idx % 2:
            optimizer.step()
            optimizer.zero_grad()
        return loss


class Counter(Callback):
    """State that depends on every hook having been called once."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def count(self, hook: str) -> None:
        self.calls[hook] = self.calls.get(hook, 0) + 1

    def on_train_epoch_start(self, *_: Any) -> None:
        self.count("epoch_start")

    def on_train_batch_end(self, *_: Any) -> None:
        self.count("batch_end")

    def on_validation_start(self, *_: Any) -> None:
        self.count("validation_start")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.count("validation_batch_end")

    def on_validation_end(self, *_: Any) -> None:
        self.count("validation_end")

    def on_train_epoch_end(self, *_: Any) -> None:
        self.count("epoch_end")

    def state_dict(self) -> dict[str, Any]:
        return dict(self.calls)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.calls = dict(state_dict)


class SaveAndCut(Callback):
    """Saves in the `at`-th call of a hook, when all have had it, and cuts the run."""

    position = "checkpoint"

    def __init__(self, path: Path, hook: str, at: int) -> None:
        self.path, self.hook, self.left = path, hook, at

    def _maybe(self, trainer: Trainer, hook: str) -> None:
        if hook != self.hook or trainer.sanity_checking:
            return
        self.left -= 1
        if self.left == 0:
            trainer.plan.when_done(lambda: self._save_and_cut(trainer))

    def _save_and_cut(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        raise Cut

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "train_batch")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "validation_batch")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "epoch")


class SaveOnException(Callback):
    """Saves where an exception cut the run, which it raises in the `at`-th call of a hook or step."""

    saves_on_exception = True

    def __init__(self, path: Path, where: str, at: int) -> None:
        self.path, self.where, self.left = path, where, at

    def _maybe(self, trainer: Trainer, where: str) -> None:
        if where == self.where and not trainer.sanity_checking:
            self.left -= 1
            if self.left == 0:
                raise Cut

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "train_batch_start")

    def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "backward")  # the step has logged and drawn random numbers by now

    def on_after_backward(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "after_backward")  # and there are gradients of it

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer, "validation_batch_start")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


class Terminate(SaveOnException):
    """Asks the process to go, as a cluster does; what runs is brought to its end first."""

    def _maybe(self, trainer: Trainer, where: str) -> None:
        if where == self.where and not trainer.sanity_checking:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)


def data(loaders: str, workers: int) -> Any:
    def one(length: int, batch_size: int) -> DataLoader[Any]:
        return DataLoader(Noisy(length, noise=not workers), batch_size=batch_size, shuffle=True, num_workers=workers)

    if loaders == "one":
        return one(10, 2)
    if loaders == "generator":
        return DataLoader(Noisy(10), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(3))
    if loaders == "dict":
        return {"a": one(10, 2), "b": one(6, 2)}
    if loaders == "sequential":
        return CombinedLoader([one(6, 2), one(4, 2)], "sequential")
    raise AssertionError(loaders)


def run(
    folder: Path, setup: dict[str, Any], seed: int, callbacks: list[Callback], ckpt_path: Path | None = None
) -> Any:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    module = (ManualNet if setup["manual"] else Net)(setup["optimizer"], setup["scheduler"])
    counter = Counter()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=CSVLogger(folder),
        callbacks=[counter, *callbacks],
        discover_callbacks=False,
        log_every_n_steps=2,
        **setup["trainer"],
    )
    val = [DataLoader(Noisy(4), batch_size=2), DataLoader(Noisy(4), batch_size=2, shuffle=True)]
    try:
        trainer.fit(module, data(setup["loaders"], setup["workers"]), val, ckpt_path=ckpt_path)
    except (Cut, SystemExit):
        return None
    return {
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "calls": counter.calls,
        "progress": (trainer.current_epoch, trainer.global_step, trainer.fit_loop.batches_that_stepped),
        "metrics": dict(trainer.callback_metrics),
        "rows": Path(trainer.log_dir or "", "metrics.csv").read_text(),
        "seen": module.seen,
    }


def assert_equal(resumed: Any, straight: Any, where: str = "") -> None:
    """Compare bit for bit, whatever is nested in what."""
    assert type(resumed) is type(straight), where
    if isinstance(straight, Tensor):
        assert torch.equal(torch.nan_to_num(resumed), torch.nan_to_num(straight)), where
    elif isinstance(straight, dict):
        assert list(map(str, resumed)) == list(map(str, straight)), where
        for key in straight:
            assert_equal(resumed[key], straight[key], f"{where}[{key!r}]")
    elif isinstance(straight, list | tuple):
        assert len(resumed) == len(straight), where
        for index, (one, other) in enumerate(zip(resumed, straight, strict=True)):
            assert_equal(one, other, f"{where}[{index}]")
    else:
        assert resumed == straight, where


SETUPS = st.fixed_dictionaries(
    {
        "optimizer": st.sampled_from(["adam", "sgd"]),
        "scheduler": st.sampled_from(["none", "step", "epoch", "plateau"]),
        "loaders": st.sampled_from(["one", "generator", "dict", "sequential"]),
        "workers": st.just(0),
        "manual": st.booleans(),
        "trainer": st.fixed_dictionaries(
            {
                "accumulate_grad_batches": st.sampled_from([1, 2, 3]),
                "val_check_interval": st.sampled_from([None, 2, 0.5]),
                "num_sanity_val_steps": st.sampled_from([0, 1]),
                "precision": st.sampled_from([None, "bf16-mixed", "16-mixed", "64-true"]),
            }
        ),
    }
)


def check(tmp_path: Path, setup: dict[str, Any], *make_cuts: Any) -> bool:
    """Run straight, cut, be it several times, and resumed; return whether the cuts happened."""
    if setup["trainer"]["precision"] == "16-mixed":
        setup = {**setup, "scheduler": "none"}  # torch warns of schedulers where the scaler leaves out the first steps
    if setup["manual"]:
        setup = {**setup, "trainer": {**setup["trainer"], "accumulate_grad_batches": 1}, "scheduler": "none"}
    straight = run(tmp_path / "straight", setup, 1, [])
    path: Path | None = None
    for number, make_cut in enumerate(make_cuts):
        next_path = tmp_path / f"{number}.ckpt"
        if run(tmp_path / "cut", setup, 1 + 50 * number, make_cut(next_path), ckpt_path=path) is not None:
            return False
        path = next_path
    before = len(straight["seen"])
    resumed = run(tmp_path / "cut", setup, 99, [], ckpt_path=path)
    tail = resumed.pop("seen")
    assert tail == straight.pop("seen")[before - len(tail) :]
    assert_equal(resumed, straight)
    return True


FOLDERS = itertools.count()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    setup=SETUPS,
    hook=st.sampled_from(["train_batch", "validation_batch", "validation", "epoch"]),
    at=st.integers(1, 14),
)
def test_cut_at_a_periodic_checkpoint(tmp_path: Path, setup: dict[str, Any], hook: str, at: int) -> None:
    folder = tmp_path / str(next(FOLDERS))
    check(folder, setup, lambda path: [SaveAndCut(path, hook, at)])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    setup=SETUPS,
    where=st.sampled_from(["train_batch_start", "backward", "after_backward", "validation_batch_start"]),
    at=st.integers(1, 14),
)
def test_cut_by_an_exception(tmp_path: Path, setup: dict[str, Any], where: str, at: int) -> None:
    folder = tmp_path / str(next(FOLDERS))
    check(folder, setup, lambda path: [SaveOnException(path, where, at)])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    setup=SETUPS,
    where=st.sampled_from(["train_batch_start", "backward", "after_backward", "validation_batch_start"]),
    at=st.integers(1, 14),
)
def test_cut_by_sigterm(tmp_path: Path, setup: dict[str, Any], where: str, at: int) -> None:
    folder = tmp_path / str(next(FOLDERS))
    check(folder, setup, lambda path: [Terminate(path, where, at)])


def test_cut_by_sigterm_in_the_last_batch_of_an_epoch_that_cycles(tmp_path: Path) -> None:
    """Nothing of the epoch is left to read, and the place in it is not where the next epoch begins."""
    setup = {
        "optimizer": "adam", "scheduler": "none", "loaders": "dict", "workers": 0, "manual": False,
        "trainer": {"accumulate_grad_batches": 3, "val_check_interval": None, "num_sanity_val_steps": 0,
                    "precision": None},
    }  # fmt: skip
    assert check(tmp_path, setup, lambda path: [Terminate(path, "train_batch_start", 5)])


HOW = st.tuples(
    st.sampled_from(["train_batch", "validation_batch", "validation", "backward", "validation_batch_start"]),
    st.integers(1, 7),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(setup=SETUPS, first=HOW, second=HOW)
def test_cut_and_cut_again(tmp_path: Path, setup: dict[str, Any], first: Any, second: Any) -> None:
    """A run that goes on is cut before, or soon after, it has read where it goes on."""

    def cut(where: str, at: int) -> Any:
        kind = SaveOnException if where in ("backward", "validation_batch_start") else SaveAndCut
        return lambda path: [kind(path, where, at)]

    check(tmp_path / str(next(FOLDERS)), setup, cut(*first), cut(*second))
