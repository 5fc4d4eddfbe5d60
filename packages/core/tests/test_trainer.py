"""The Trainer: evaluation of any kind, small switches, and what a first user sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningDataModule, Trainer
from leyden.callback import Checkpoint, LambdaCallback
from leyden.testing import BoringModule


def make(*callbacks: Callback, **settings: Any) -> Trainer:
    usual: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "discover_callbacks": False}
    return Trainer(**(usual | settings), callbacks=callbacks)


# -- evaluation -------------------------------------------------------------------------------------------------------


class Keeps(Checkpoint):
    """Saves after the first batch and calls that the best."""

    best_model_path = ""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if not self.best_model_path:
            trainer.save_checkpoint("best.ckpt")
            self.best_model_path = "best.ckpt"


class Sums(BoringModule):
    """Evaluates to the sum of its weights."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("sum", self.layer.weight.sum())

    test_step = validation_step

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer.weight.sum()


def outcome(trainer: Trainer, fn: str, *args: Any, **kwargs: Any) -> float:
    result = getattr(trainer, fn)(*args, **kwargs)
    return float(result[0]) if fn == "predict" else float(result[0]["sum"])


@pytest.mark.parametrize("fn", ["validate", "test", "predict"])
def test_without_a_model_the_last_one_is_evaluated_at_its_best_checkpoint(
    fn: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, module = make(Keeps()), Sums()
    trainer.fit(module)
    last = module.layer.weight.sum().item()
    best = torch.load("best.ckpt")["state_dict"]["layer.weight"].sum().item()
    assert last != best
    assert outcome(trainer, fn, module) == pytest.approx(last)
    with caplog.at_level("INFO", "leyden"):
        assert outcome(trainer, fn) == pytest.approx(best)
    assert f"Trainer.{fn}() without a model uses the best checkpoint of the last fit" in caplog.text
    assert outcome(trainer, fn, ckpt_path="best") == pytest.approx(best)
    assert trainer.ckpt_path == "best.ckpt"


@pytest.mark.parametrize("fn", ["validate", "test", "predict"])
def test_without_a_model_and_without_checkpoints_the_weights_are_as_they_are(fn: str) -> None:
    trainer, module = make(), Sums()
    trainer.fit(module)
    assert outcome(trainer, fn) == pytest.approx(module.layer.weight.sum().item())


@pytest.mark.parametrize("fn", ["validate", "test", "predict"])
def test_the_datamodule_of_the_fit_is_that_of_the_evaluation_unless_loaders_are_given(fn: str) -> None:
    asked: list[str] = []

    class Data(LightningDataModule):
        def train_dataloader(self) -> Any:
            asked.append("train_dataloader")
            return BoringModule().train_dataloader()

        def val_dataloader(self) -> Any:
            asked.append("val_dataloader")
            return BoringModule().val_dataloader()

        def test_dataloader(self) -> Any:
            asked.append("test_dataloader")
            return BoringModule().test_dataloader()

        def predict_dataloader(self) -> Any:
            asked.append("predict_dataloader")
            return BoringModule().predict_dataloader()

    trainer, data = make(), Data()
    trainer.fit(Sums(), datamodule=data)
    asked.clear()
    getattr(trainer, fn)()
    assert asked == [f"{'val' if fn == 'validate' else fn}_dataloader"]
    asked.clear()
    getattr(trainer, fn)(Sums(), BoringModule().test_dataloader())
    assert (asked, trainer.datamodule) == ([], None)
    getattr(trainer, fn)(Sums(), data)
    assert trainer.datamodule is data


def test_results_are_printed_when_they_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make()
    trainer.validate(Sums(), verbose=False)
    assert capsys.readouterr().out == ""
    trainer.validate(Sums())
    assert "validate metric" in capsys.readouterr().out


# -- switches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [True, 2])
def test_fast_dev_run_runs_a_few_batches_of_everything_and_writes_nothing(batches: bool | int) -> None:
    seen: list[int] = []
    watch = LambdaCallback(on_train_batch_end=lambda trainer, module, outputs, batch, batch_idx: seen.append(batch_idx))
    trainer = Trainer(fast_dev_run=batches, accelerator="cpu", callbacks=watch)
    module = BoringModule(batches={"train": 5, "val": 5, "test": 5, "predict": 5})
    trainer.fit(module)
    assert (trainer.current_epoch, trainer.global_step, seen) == (1, int(batches), list(range(batches)))
    assert trainer.num_val_batches == [int(batches)]
    trainer.test(verbose=False)
    assert len(trainer.predict() or []) == int(batches)
    assert trainer.logger is not None
    trainer.logger.experiment.add_anything("x", 1).at_all()
    assert os.listdir() == []


def test_barebones_trains_without_anything_beside() -> None:
    trainer = Trainer(barebones=True, max_epochs=1, accelerator="cpu")
    trainer.fit(BoringModule())
    assert (trainer.global_step, trainer.callbacks, trainer.loggers, os.listdir()) == (2, [], [], [])


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
@pytest.mark.parametrize("empty", [None, True])
def test_init_module_makes_the_module_as_the_run_wants_it(
    precision: str, dtype: torch.dtype, empty: bool | None
) -> None:
    trainer = make(precision=precision)
    with trainer.init_module(empty_init=empty):
        module = BoringModule()
    assert module.layer.weight.dtype is dtype
    assert torch.get_default_dtype() is torch.float32
    if empty is None:
        torch.manual_seed(0)
        with trainer.init_module():
            seeded = BoringModule()
        assert seeded.layer.weight.abs().max() <= 0.5  # as Linear(4, 2) draws it
    trainer.fit(module)
    assert trainer.global_step == 2


def test_empty_init_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    with make().init_module(empty_init=True):
        BoringModule()
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)


def test_a_saved_checkpoint_makes_its_folder() -> None:
    trainer = make()
    trainer.validate(BoringModule(), verbose=False)
    trainer.save_checkpoint(Path("runs") / "1" / "a.ckpt")
    assert os.listdir("runs/1") == ["a.ckpt"]


class Bar(Callback):
    role = "progress_bar"

    def __init__(self) -> None:
        self.printed: list[Any] = []

    def print(self, *args: Any, **kwargs: Any) -> None:
        self.printed.append(args)


def test_print_goes_through_the_progress_bar_while_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    trainer = make(bar, LambdaCallback(on_train_start=lambda trainer, module: trainer.print("within")))
    trainer.print("before")
    trainer.fit(BoringModule())
    assert bar.printed == [("within",)]
    assert capsys.readouterr().out == "before\n"


# -- what a first user sees -------------------------------------------------------------------------------------------


def terminal(script: str) -> list[str]:
    """What a script prints in a process of its own, with Python's usual filter of warnings."""
    header = "import torch, leyden\nfrom leyden.testing import BoringModule\n"
    ran = subprocess.run(
        [sys.executable, "-c", header + script], capture_output=True, text=True, env={**os.environ}, check=False
    )
    return (ran.stdout + ran.stderr).splitlines()


def test_a_plain_fit_says_one_line() -> None:
    assert terminal("leyden.Trainer(max_epochs=1, accelerator='cpu').fit(BoringModule())") == [
        "`Trainer.fit` stopped: `max_epochs=1` reached."
    ]


def test_a_compiled_module_is_refused() -> None:
    last = terminal("leyden.Trainer(accelerator='cpu').fit(torch.compile(BoringModule()))")[-1]
    assert last.endswith("compile the network inside it instead: self.net = torch.compile(self.net).")


def test_a_loss_that_is_never_returned_is_told_after_the_first_epoch(caplog: pytest.LogCaptureFixture) -> None:
    class Forgets(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.loss(batch)

    with caplog.at_level("INFO", "leyden"):
        make(max_epochs=3).fit(Forgets())
    assert [record.getMessage() for record in caplog.records][:-1] == [
        "No optimizer step was taken in the whole first epoch. Does Forgets.training_step return the loss?"
    ]


def test_a_mistake_ends_with_the_line_that_names_the_fix() -> None:
    last = terminal("leyden.Trainer(max_epoch=1)")[-1]
    assert (
        last == "leyden.errors.UnknownArgumentError: Trainer() has no argument 'max_epoch'. Did you mean 'max_epochs'?"
    )
