"""ModelCheckpoint on tiny trainings: which files there are afterwards, and what is in them."""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.loggers import CSVLogger
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint


class Scripted(BoringModule):
    """Four training batches an epoch; the n-th validation logs the n-th of the given scores."""

    def __init__(self, scores: Sequence[float] = (), name: str = "val_loss", batches: int = 4) -> None:
        super().__init__(batches={"train": batches})
        self.scores, self.name, self.validations = list(scores), name, 0

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.scores:
            self.log(self.name, self.scores[min(self.validations, len(self.scores) - 1)])

    def on_validation_end(self) -> None:
        self.validations += not self.trainer.sanity_checking


def fit(checkpoint: Callback | list[Callback], module: LightningModule | None = None, **settings: Any) -> Trainer:
    settings = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0, "discover_callbacks": False} | settings
    trainer = Trainer(callbacks=checkpoint, **settings)
    trainer.fit(module or Scripted([1.0]))
    return trainer


def listing(folder: str | Path | None) -> list[str]:
    assert folder is not None
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def saved(checkpoint: ModelCheckpoint, name: str) -> dict[str, Any]:
    assert checkpoint.dirpath is not None
    content: dict[str, Any] = torch.load(os.path.join(checkpoint.dirpath, name), weights_only=True)
    return content


def steps(checkpoint: ModelCheckpoint) -> dict[str, int]:
    """The optimizer step of each file there is."""
    return {name: saved(checkpoint, name)["global_step"] for name in listing(checkpoint.dirpath)}


# -- the constructor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"dirpath": 3}, "dirpath=3: expected a folder's path"),
        ({"dirpath": ""}, "dirpath='': expected a folder's path"),
        ({"dirpath": "s3://bucket"}, "dirpath='s3://bucket': this version writes to local folders only"),
        ({"filename": 3}, "filename=3: expected a template"),
        ({"filename": "{epoch"}, "filename='{epoch' is no template"),
        ({"filename": "last", "save_last": True}, "both want the same file"),
        ({"monitor": 3}, "monitor=3: expected the name of a metric"),
        ({"monitor": ""}, "monitor='': expected the name of a metric"),
        ({"verbose": "yes"}, "verbose='yes': expected True or False"),
        ({"save_last": "always"}, "save_last='always': expected True (a copy), 'link'"),
        ({"save_top_k": -2}, "save_top_k=-2: expected -1 (keep all), 0 (none)"),
        ({"save_top_k": 1.0}, "save_top_k=1.0: expected -1"),
        ({"save_top_k": True}, "save_top_k=True: expected -1"),
        ({"save_top_k": 3}, "save_top_k=3 with monitor=None: there is nothing to tell the best 3 by"),
        ({"save_on_exception": 1}, "save_on_exception=1: expected True or False"),
        ({"save_weights_only": None}, "save_weights_only=None: expected True or False"),
        ({"mode": "mix"}, "mode='mix': expected 'min' or 'max'"),
        ({"mode": "maxx"}, "Did you mean 'max'?"),
        ({"auto_insert_metric_name": 0}, "auto_insert_metric_name=0: expected True or False"),
        ({"every_n_train_steps": -1}, "every_n_train_steps=-1: expected a number of optimizer steps"),
        ({"every_n_train_steps": 0.5}, "every_n_train_steps=0.5: expected a number of optimizer steps"),
        ({"every_n_epochs": -1}, "every_n_epochs=-1: expected a number of epochs"),
        ({"train_time_interval": 60}, "train_time_interval=60: expected a positive timedelta"),
        ({"train_time_interval": timedelta(0)}, "expected a positive timedelta"),
        (
            {"every_n_train_steps": 1, "every_n_epochs": 1},
            "every_n_train_steps and every_n_epochs are mutually exclusive",
        ),
        (
            {"every_n_epochs": 1, "train_time_interval": timedelta(1)},
            "every_n_epochs and train_time_interval are mutually exclusive",
        ),
        ({"save_on_train_epoch_end": 1}, "save_on_train_epoch_end=1: expected True, False"),
        ({"enable_version_counter": "no"}, "enable_version_counter='no': expected True or False"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        ModelCheckpoint(**arguments)
    assert str(error.value).startswith("ModelCheckpoint(...) cannot work:\n  - ")
    assert told in str(error.value)


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(MisconfigurationException) as error:
        ModelCheckpoint(dirpath=3, mode="mix", save_top_k=-5, every_n_epochs=-1)  # type: ignore[arg-type]
    assert str(error.value).count("\n  - ") == 4


def test_the_arguments_can_be_read_back() -> None:
    checkpoint = ModelCheckpoint("here", "{epoch}", "acc", True, "link", 3, mode="max")
    assert (checkpoint.dirpath, checkpoint.filename, checkpoint.monitor) == (os.path.abspath("here"), "{epoch}", "acc")
    assert (checkpoint.verbose, checkpoint.save_last, checkpoint.save_top_k) == (True, "link", 3)
    assert (checkpoint.mode, float(checkpoint.kth_value), checkpoint.best_model_score) == ("max", -math.inf, None)
    assert checkpoint.every_n_epochs == 1
    assert ModelCheckpoint(every_n_train_steps=0).every_n_epochs == 0


def test_two_that_differ_in_what_or_when_have_keys_of_their_own() -> None:
    key = ModelCheckpoint(monitor="val_loss").state_key
    assert key == (
        "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
        "'train_time_interval': None}"
    )
    assert ModelCheckpoint(monitor="val_loss", every_n_train_steps=5).state_key != key
    named = ModelCheckpoint(monitor="val_loss")
    named.name = "second"
    assert named.state_key != key


# -- which files, without a monitor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "settings", "files"),
    [
        ({}, {"max_epochs": 3}, {"epoch=2-step=12.ckpt": 12}),
        ({"save_top_k": 0}, {"max_epochs": 2}, {}),
        ({"save_top_k": -1}, {"max_epochs": 2}, {"epoch=0-step=4.ckpt": 4, "epoch=1-step=8.ckpt": 8}),
        ({"save_top_k": 0, "save_last": True}, {"max_epochs": 2}, {"last.ckpt": 8}),
        ({"save_last": True, "every_n_epochs": 0}, {"max_epochs": 2}, {"last.ckpt": 8}),
        ({"save_last": True}, {"max_epochs": 2}, {"epoch=1-step=8.ckpt": 8, "last.ckpt": 8}),
        ({"every_n_epochs": 2, "save_top_k": -1}, {"max_epochs": 3}, {"epoch=1-step=8.ckpt": 8}),
        (
            {"every_n_epochs": 2, "save_top_k": -1, "save_last": True},
            {"max_epochs": 3},
            {"epoch=1-step=8.ckpt": 8, "last.ckpt": 12},
        ),
        (
            {"every_n_train_steps": 3, "save_top_k": -1},
            {"max_epochs": 2},
            {"epoch=0-step=3.ckpt": 3, "epoch=1-step=6.ckpt": 6},
        ),
        (
            {"every_n_train_steps": 3, "save_top_k": 1, "save_last": True},
            {"max_epochs": 2},
            {"epoch=1-step=6.ckpt": 6, "last.ckpt": 8},
        ),
        ({"filename": "{epoch:02d}"}, {"max_epochs": 2}, {"epoch=01.ckpt": 8}),
        ({"filename": "fixed", "save_top_k": -1}, {"max_epochs": 2}, {"fixed.ckpt": 4, "fixed-v1.ckpt": 8}),
        (
            {"filename": "fixed", "save_top_k": -1, "enable_version_counter": False},
            {"max_epochs": 2},
            {"fixed.ckpt": 8},
        ),
        ({"filename": "fixed"}, {"max_epochs": 3}, {"fixed.ckpt": 12}),
        ({"filename": "{epoch}-{step}", "auto_insert_metric_name": False}, {}, {"0-4.ckpt": 4}),
        ({"save_top_k": -1}, {"max_epochs": 3, "limit_val_batches": 0}, {
            "epoch=0-step=4.ckpt": 4, "epoch=1-step=8.ckpt": 8, "epoch=2-step=12.ckpt": 12,
        }),
        ({"save_top_k": -1}, {"max_epochs": 3, "check_val_every_n_epoch": 2}, {"epoch=1-step=8.ckpt": 8}),
        (
            {"save_top_k": -1},
            {"max_epochs": 2, "check_val_every_n_epoch": 2, "limit_val_batches": 0},
            {"epoch=0-step=4.ckpt": 4, "epoch=1-step=8.ckpt": 8},
        ),
        (
            {"save_top_k": -1, "save_on_train_epoch_end": True},
            {"max_epochs": 2, "check_val_every_n_epoch": 2},
            {"epoch=0-step=4.ckpt": 4, "epoch=1-step=8.ckpt": 8},
        ),
        ({"save_top_k": -1}, {"val_check_interval": 2}, {"epoch=0-step=2.ckpt": 2, "epoch=0-step=4.ckpt": 4}),
        ({"save_top_k": -1}, {"max_epochs": 2, "val_check_interval": 3, "check_val_every_n_epoch": None}, {
            "epoch=0-step=3.ckpt": 3, "epoch=1-step=6.ckpt": 6,
        }),
        ({"save_top_k": -1, "every_n_train_steps": 1}, {"accumulate_grad_batches": 3}, {
            "epoch=0-step=1.ckpt": 1, "epoch=0-step=2.ckpt": 2,
        }),
        ({"save_top_k": -1, "save_last": True}, {"fast_dev_run": 2}, {}),
        ({"every_n_train_steps": 2}, {"max_steps": 3}, {"epoch=0-step=2.ckpt": 2}),
    ],
)  # fmt: skip
def test_without_a_monitor(arguments: dict[str, Any], settings: dict[str, Any], files: dict[str, int]) -> None:
    checkpoint = ModelCheckpoint("kept", **arguments)
    fit(checkpoint, **settings)
    assert steps(checkpoint) == files
    if checkpoint.save_top_k and checkpoint.every_n_epochs != 0:
        newest = max((name for name in files if "last" not in name), key=lambda name: files[name], default=None)
        assert checkpoint.best_model_path == (os.path.abspath(f"kept/{newest}") if newest else "")
    assert (os.path.basename(checkpoint.last_model_path) == "last.ckpt") == ("last.ckpt" in files)


def test_the_newest_is_saved_after_all_steps_of_several_optimizers() -> None:
    class Two(Scripted):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()
            self.log("train_loss", self.loss(batch))

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    checkpoint = ModelCheckpoint("kept", every_n_train_steps=3, save_top_k=-1, monitor="train_loss")
    fit(checkpoint, Two([1.0]))
    assert steps(checkpoint) == {"epoch=0-step=4.ckpt": 4, "epoch=0-step=6.ckpt": 6}


def test_time_between_saves() -> None:
    class Clocked(ModelCheckpoint):
        readings: Iterator[float] = iter(range(0, 1000, 10))  # ten seconds a batch

        @staticmethod
        def clock() -> float:
            return next(Clocked.readings)

    checkpoint = Clocked("kept", train_time_interval=timedelta(seconds=25), save_top_k=-1)
    fit(checkpoint, max_epochs=2)
    assert steps(checkpoint) == {"epoch=0-step=3.ckpt": 3, "epoch=1-step=6.ckpt": 6}


def test_the_default_folder_is_that_of_the_logger_and_follows_it(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint()
    fit(checkpoint, logger=CSVLogger(tmp_path / "logs"))
    assert listing(tmp_path / "logs/leyden_logs/version_0/checkpoints") == ["epoch=0-step=4.ckpt"]
    fit(checkpoint, logger=CSVLogger(tmp_path / "logs"))
    assert listing(tmp_path / "logs/leyden_logs/version_1/checkpoints") == ["epoch=0-step=4.ckpt"]
    fit(checkpoint, default_root_dir=tmp_path / "root")
    assert listing(tmp_path / "root/checkpoints") == ["epoch=0-step=4.ckpt"]


def test_weights_only_leaves_out_what_resuming_needs() -> None:
    checkpoint = ModelCheckpoint("kept", save_weights_only=True)
    fit(checkpoint)
    content = saved(checkpoint, "epoch=0-step=4.ckpt")
    assert "state_dict" in content
    assert "optimizer_states" not in content


def test_evaluation_saves_nothing() -> None:
    checkpoint = ModelCheckpoint("kept", save_last=True)
    trainer = Trainer(callbacks=checkpoint, logger=False, discover_callbacks=False)
    trainer.validate(Scripted([1.0]), verbose=False)
    trainer.test(Scripted([1.0]), verbose=False)
    trainer.predict(Scripted([1.0]))
    assert listing("kept") == []


# -- the best k -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "arguments", "kept", "best", "kth"),
    [
        ([3, 1, 2], {}, ["epoch=1"], "epoch=1", "epoch=1"),
        ([3, 1, 2], {"mode": "max"}, ["epoch=0"], "epoch=0", "epoch=0"),
        ([3, 1, 2, 0], {"save_top_k": 2}, ["epoch=1", "epoch=3"], "epoch=3", "epoch=1"),
        ([3, 1], {"save_top_k": 3}, ["epoch=0", "epoch=1"], "epoch=1", ""),
        ([3, 1, 2], {"save_top_k": -1}, ["epoch=0", "epoch=1", "epoch=2"], "epoch=1", "epoch=0"),
        ([1, 1, 1], {}, ["epoch=0"], "epoch=0", "epoch=0"),
        ([math.nan, 2, math.nan], {}, ["epoch=1"], "epoch=1", "epoch=1"),
        ([math.nan, 2, 1], {"save_top_k": 2, "mode": "max"}, ["epoch=1", "epoch=2"], "epoch=1", "epoch=2"),
        ([math.inf, math.nan], {"save_top_k": 1}, ["epoch=0"], "epoch=0", "epoch=0"),
        ([math.nan, math.nan], {}, ["epoch=0"], "epoch=0", "epoch=0"),
    ],
)
def test_the_best_k(scores: list[float], arguments: dict[str, Any], kept: list[str], best: str, kth: str) -> None:
    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss", **arguments)
    fit(checkpoint, Scripted(scores), max_epochs=len(scores))
    assert listing("kept") == [f"{name}.ckpt" for name in kept]
    assert sorted(map(os.path.basename, checkpoint.best_k_models)) == listing("kept")
    assert os.path.basename(checkpoint.best_model_path) == f"{best}.ckpt"
    assert os.path.basename(checkpoint.kth_best_model_path) == (f"{kth}.ckpt" if kth else "")
    assert checkpoint.best_model_score is not None
    torch.testing.assert_close(
        checkpoint.best_model_score, torch.tensor(float(scores[int(best[-1])])), equal_nan=True, check_dtype=False
    )
    torch.testing.assert_close(
        checkpoint.current_score, torch.tensor(float(scores[-1])), equal_nan=True, check_dtype=False
    )


def test_a_score_stands_in_the_file_beside_its_weights() -> None:
    checkpoint = ModelCheckpoint("kept", "{epoch}-{val/loss:.2f}", "val/loss", save_top_k=-1)
    fit(checkpoint, Scripted([0.5, 0.25], name="val/loss"), max_epochs=2)
    assert listing("kept") == ["epoch=0-val_loss=0.50.ckpt", "epoch=1-val_loss=0.25.ckpt"]
    state = saved(checkpoint, "epoch=1-val_loss=0.25.ckpt")["callbacks"][checkpoint.state_key]
    assert state["best_model_path"] == checkpoint.best_model_path
    assert float(state["best_model_score"]) == 0.25
    assert {os.path.basename(path): float(score) for path, score in state["best_k_models"].items()} == {
        "epoch=0-val_loss=0.50.ckpt": 0.5,
        "epoch=1-val_loss=0.25.ckpt": 0.25,
    }


def test_the_newest_can_be_kept_by_the_counters() -> None:
    checkpoint = ModelCheckpoint("kept", monitor="step", mode="max", save_top_k=2, every_n_train_steps=2)
    fit(checkpoint, max_epochs=2)
    assert steps(checkpoint) == {"epoch=1-step=6.ckpt": 6, "epoch=1-step=8.ckpt": 8}


@pytest.mark.parametrize("monitor", ["train_loss_epoch", "train_loss_step", "train_loss", "logged_late"])
def test_metrics_of_training_can_be_monitored(monitor: str) -> None:
    class Both(Scripted):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def on_train_epoch_end(self) -> None:
            self.log("logged_late", float(self.current_epoch))

    checkpoint = ModelCheckpoint("kept", monitor=monitor, save_top_k=-1)
    trainer = fit(checkpoint, Both([1.0]), max_epochs=2)
    assert steps(checkpoint) == {"epoch=0-step=4.ckpt": 4, "epoch=1-step=8.ckpt": 8}
    score = checkpoint.best_k_models[os.path.abspath("kept/epoch=1-step=8.ckpt")]
    torch.testing.assert_close(score, trainer.callback_metrics[monitor])


def test_the_metric_of_one_of_several_dataloaders() -> None:
    class Several(Scripted):
        def val_dataloader(self) -> Any:
            return [super().val_dataloader(), super().val_dataloader()]

        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
            self.log("val_loss", [1.0, 2.0 - self.validations][dataloader_idx])

    checkpoint = ModelCheckpoint("kept", "{epoch}-{val_loss/dataloader_idx_1:.0f}", "val_loss/dataloader_idx_1")
    fit(checkpoint, Several(), max_epochs=2)
    assert listing("kept") == ["epoch=1-val_loss_dataloader_idx_1=1.ckpt"]
    assert checkpoint.best_model_score == 1.0


def test_several_in_one_folder_keep_out_of_each_others_way() -> None:
    best = ModelCheckpoint("kept", "{epoch}", "val_loss", save_last=True)
    newest = ModelCheckpoint("kept", "{epoch}", save_last=True)
    fit([best, newest], Scripted([1.0, 2.0, 3.0]), max_epochs=3)
    assert steps(best) == {"epoch=0.ckpt": 4, "epoch=2.ckpt": 12, "last.ckpt": 12, "last-v1.ckpt": 12}


# -- scores and steps -------------------------------------------------------------------------------------------------


def test_a_step_triggered_save_waits_for_the_validation_that_brings_its_score() -> None:
    """Due after 2, 4, 6, ... steps, validated after 3, 6, 9, ...: the weights saved are those that were measured."""
    checkpoint = ModelCheckpoint(
        "kept", "{step}-{val_loss:.0f}", "val_loss", save_top_k=-1, every_n_train_steps=2, save_last=True
    )
    module = Scripted([30, 60, 90, 120], batches=12)
    fit(checkpoint, module, val_check_interval=3)
    assert steps(checkpoint) == {
        "step=3-val_loss=30.ckpt": 3,
        "step=6-val_loss=60.ckpt": 6,
        "step=9-val_loss=90.ckpt": 9,
        "step=12-val_loss=120.ckpt": 12,
        "last.ckpt": 12,
    }


def test_while_a_save_waits_the_newest_is_there_already() -> None:
    class Stop(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    checkpoint = ModelCheckpoint("kept", monitor="val_loss", every_n_train_steps=2, save_last="link")
    with pytest.raises(KeyboardInterrupt):
        fit([Stop(), checkpoint])
    assert steps(checkpoint) == {"last.ckpt": 2}
    assert saved(checkpoint, "last.ckpt")["callbacks"][checkpoint.state_key]["waits_for_score"] is True


def test_a_score_of_an_older_step_is_never_used() -> None:
    """Epochs end at 4, 8, 12, validation runs in every second: the save due at 4 waits until 8, that at 12 for ever."""
    checkpoint = ModelCheckpoint(
        "kept", "{step}-{val_loss:.0f}", "val_loss", save_top_k=-1, save_on_train_epoch_end=True
    )
    fit(checkpoint, Scripted([1.0]), max_epochs=3, check_val_every_n_epoch=2)
    assert steps(checkpoint) == {"step=8-val_loss=1.ckpt": 8}


def test_a_save_that_waits_in_vain_is_told(caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = ModelCheckpoint("kept", monitor="val_loss", every_n_train_steps=3)
    with caplog.at_level(logging.INFO, logger="leyden"):
        fit(checkpoint, max_steps=3, val_check_interval=2, limit_val_batches=1)
    assert listing("kept") == []
    assert "'val_loss' was not logged again before training ended" in caplog.text


def test_a_training_metric_that_is_logged_now_and_then_is_waited_for() -> None:
    class Sparse(Scripted):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            if batch_idx % 3 == 0:
                self.log("sparse", float(batch_idx))
            return self.loss(batch)

    checkpoint = ModelCheckpoint("kept", "{step}-{sparse:.0f}", "sparse", every_n_train_steps=2, save_top_k=-1)
    fit(checkpoint, Sparse(batches=8), limit_val_batches=0)
    assert steps(checkpoint) == {"step=4-sparse=3.ckpt": 4, "step=7-sparse=6.ckpt": 7}


def test_under_accumulation_the_score_of_the_window_counts() -> None:
    checkpoint = ModelCheckpoint("kept", monitor="train_loss", every_n_train_steps=1, save_top_k=-1)
    fit(checkpoint, Scripted([1.0], batches=5), accumulate_grad_batches=2)
    assert list(steps(checkpoint).values()) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "settings", "at_step"),
    [
        ({}, {}, 4),
        ({}, {"limit_val_batches": 0}, 4),
        ({"every_n_train_steps": 1}, {}, 4),
        ({}, {"val_check_interval": 2}, 2),
        ({"save_on_train_epoch_end": True}, {"check_val_every_n_epoch": 2, "max_epochs": 2}, 8),
    ],
)
def test_a_missing_monitor_is_an_error_that_lists_what_there_is(
    arguments: dict[str, Any], settings: dict[str, Any], at_step: int
) -> None:
    checkpoint = ModelCheckpoint("kept", monitor="train_los", **arguments)
    given: dict[str, Any] = {"max_epochs": 1, "logger": False, "discover_callbacks": False} | settings
    trainer = Trainer(callbacks=checkpoint, **given)
    with pytest.raises(MisconfigurationException) as error:
        trainer.fit(Scripted([1.0]))
    assert trainer.global_step == at_step
    assert "no 'train_los' was logged. There are: train_loss" in str(error.value)
    assert "Did you mean 'train_loss'?" in str(error.value)


def test_without_ranking_nothing_need_be_logged() -> None:
    checkpoint = ModelCheckpoint("kept", monitor="nothing", save_top_k=0, save_last=True)
    fit(checkpoint)
    assert listing("kept") == ["last.ckpt"]


# -- the newest -------------------------------------------------------------------------------------------------------


def test_last_is_a_link_where_the_newest_is_kept_and_a_file_where_it_is_not() -> None:
    class Look(Callback):
        position = "checkpoint"
        seen: list[tuple[str | None, int]]

        def __init__(self) -> None:
            self.seen = []

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            link = os.readlink("kept/last.ckpt") if os.path.islink("kept/last.ckpt") else None
            self.seen.append((link, torch.load("kept/last.ckpt", weights_only=True)["global_step"]))

    checkpoint, look = ModelCheckpoint("kept", "{epoch}", "val_loss", save_last="link"), Look()
    fit([checkpoint, look], Scripted([3.0, 4.0, 1.0, 2.0]), max_epochs=4)
    assert look.seen == [("epoch=0.ckpt", 4), (None, 8), ("epoch=2.ckpt", 12), (None, 16)]
    assert listing("kept") == ["epoch=2.ckpt", "last.ckpt"]


def test_the_name_of_the_newest_may_be_a_template() -> None:
    class Named(ModelCheckpoint):
        CHECKPOINT_NAME_LAST = "{epoch}-last"

    checkpoint = Named("kept", save_top_k=0, save_last=True)
    fit(checkpoint, max_epochs=3)
    assert listing("kept") == ["epoch=2-last.ckpt"]


# -- files of others, failures ----------------------------------------------------------------------------------------


def test_files_of_an_earlier_run_stay() -> None:
    for _ in range(2):
        fit(ModelCheckpoint("kept", save_last=True), max_epochs=2)
    assert listing("kept") == ["epoch=1-step=8-v1.ckpt", "epoch=1-step=8.ckpt", "last-v1.ckpt", "last.ckpt"]


class Failing(Trainer):
    """A trainer whose n-th save fails, as when the disk is full."""

    fails_at = 0

    def save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        self.fails_at -= 1
        if self.fails_at == 0:
            raise OSError("no space left on device")
        super().save_checkpoint(*arguments, **named)


@pytest.mark.parametrize(
    ("fails_at", "files", "best", "last"),
    [
        (1, {}, "", ""),
        (2, {"epoch=0.ckpt": 4}, "epoch=0.ckpt", ""),
        (3, {"epoch=0.ckpt": 4, "last.ckpt": 4}, "epoch=0.ckpt", "last.ckpt"),
        (4, {"epoch=0.ckpt": 4, "epoch=1.ckpt": 8, "last.ckpt": 4}, "epoch=1.ckpt", "last.ckpt"),
    ],
)
def test_a_save_that_fails_leaves_files_and_memory_as_they_were(
    fails_at: int, files: dict[str, int], best: str, last: str
) -> None:
    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss", save_last=True)
    trainer = Failing(max_epochs=2, logger=False, callbacks=checkpoint, discover_callbacks=False)
    trainer.fails_at = fails_at
    with pytest.raises(OSError, match="no space left"):
        trainer.fit(Scripted([2.0, 1.0]))
    assert steps(checkpoint) == files
    assert os.path.basename(checkpoint.best_model_path) == best
    assert os.path.basename(checkpoint.last_model_path) == last


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
def test_what_there_is_can_be_saved_on_an_exception(exception: type[BaseException]) -> None:
    class Break(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 6:
                raise exception

    for wanted in (True, False):
        checkpoint = ModelCheckpoint(f"kept{wanted:d}", monitor="val_loss", save_last=True, save_on_exception=wanted)
        with pytest.raises(exception):
            fit([checkpoint, Break()], max_epochs=2)
    assert {name: torch.load(f"kept1/{name}", weights_only=True)["global_step"] for name in listing("kept1")} == {
        "epoch=0-step=4.ckpt": 4,
        "epoch=1-step=6.ckpt": 6,
        "last.ckpt": 6,
    }
    assert listing("kept0") == ["epoch=0-step=4.ckpt", "last.ckpt"]


def test_an_exception_before_training_saves_nothing() -> None:
    class Break(Scripted):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            raise RuntimeError("in the sanity check")

    checkpoint = ModelCheckpoint("kept", save_on_exception=True)
    with pytest.raises(RuntimeError, match="in the sanity check"):
        fit(checkpoint, Break(), num_sanity_val_steps=1)
    assert listing("kept") == []


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_it_says_what_it_does(caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss", verbose=True, save_last=True)
    with caplog.at_level(logging.INFO, logger="leyden"):
        fit(checkpoint, Scripted([1.0, 2.0]), max_epochs=2)
    folder = os.path.abspath("kept")
    assert [record.message for record in caplog.records if "fit" not in record.message] == [
        f"Saved {folder}/epoch=0.ckpt with val_loss=1.00000",
        f"Saved the newest as {folder}/last.ckpt",
        "A checkpoint with val_loss=2.00000 is not among the best 1: not saved",
        f"Saved the newest as {folder}/last.ckpt",
    ]


def test_loggers_are_told_of_every_save() -> None:
    class Told(CSVLogger):
        newest: list[str]

        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            self.newest = [*getattr(self, "newest", []), os.path.basename(checkpoint_callback.best_model_path)]

    logger = Told("logs")
    fit(ModelCheckpoint("kept", "{epoch}"), logger=logger, max_epochs=2)
    assert logger.newest == ["epoch=0.ckpt", "epoch=1.ckpt"]


def test_names_files_and_ranking_can_be_asked_for() -> None:
    checkpoint = ModelCheckpoint("kept", "{epoch}-{acc:.1f}", "val_loss", save_top_k=2)
    trainer = fit(checkpoint, Scripted([2.0, 1.0]), max_epochs=2)
    assert checkpoint.format_checkpoint_name({"epoch": 1, "acc": 0.5}, ver=3, prefix="p") == os.path.abspath(
        "kept/p-epoch=1-acc=0.5-v3.ckpt"
    )
    assert checkpoint.file_exists(checkpoint.best_model_path, trainer)
    assert not checkpoint.file_exists("kept/none.ckpt", trainer)
    assert checkpoint.check_monitor_top_k(trainer, torch.tensor(1.5))
    assert not checkpoint.check_monitor_top_k(trainer, torch.tensor(2.5))
    assert not checkpoint.check_monitor_top_k(trainer)
    checkpoint.to_yaml()
    assert Path("kept/best_k_models.yaml").read_text() == "".join(
        f'"{path}": {float(score)}\n' for path, score in checkpoint.best_k_models.items()
    )
    checkpoint.to_yaml("elsewhere/ranking.yaml")
    assert Path("elsewhere/ranking.yaml").exists()


def test_it_can_be_pickled_between_runs() -> None:
    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss")
    fit(checkpoint)
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert copy.best_model_path == checkpoint.best_model_path
    fit(copy, Scripted([0.5]))
    assert os.path.basename(copy.best_model_path) == "epoch=0.ckpt"
    assert copy.best_model_score == 0.5


def test_a_metric_in_the_name_that_is_missing_reads_nan() -> None:
    checkpoint = ModelCheckpoint("kept", "{epoch}-{acc:.2f}")
    fit(checkpoint)
    assert listing("kept") == ["epoch=0-acc=nan.ckpt"]
