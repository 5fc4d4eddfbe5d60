"""ModelCheckpoint on tiny trainings: which files there are afterwards, and what is in them."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_runs import Scripted, fit, listing, saved, steps
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.loggers import CSVLogger
from leyden_checkpoint import ModelCheckpoint

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


@pytest.mark.parametrize(
    ("arguments", "settings", "files"),
    [
        ({}, {"accumulate_grad_batches": 2}, {"epoch=0-step=2.ckpt": 2, "epoch=1-step=4.ckpt": 4}),
        ({"monitor": "val_loss"}, {"val_check_interval": 4}, {"epoch=0-step=4.ckpt": 4, "epoch=1-step=8.ckpt": 8}),
    ],
)
def test_time_that_is_up_waits_for_the_step_and_for_the_score(
    arguments: dict[str, Any], settings: dict[str, Any], files: dict[str, int]
) -> None:
    """Thirty seconds a reading, one reading a step: due at each second step; a validation is after each fourth."""

    class Clocked(ModelCheckpoint):
        readings: Iterator[float] = iter(range(0, 10_000, 30))

        @staticmethod
        def clock() -> float:
            return next(Clocked.readings)

    checkpoint = Clocked("kept", train_time_interval=timedelta(seconds=60), save_top_k=-1, **arguments)
    fit(checkpoint, max_epochs=2, **settings)
    assert steps(checkpoint) == files


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


# -- the newest -------------------------------------------------------------------------------------------------------


def test_last_is_a_link_where_the_newest_is_kept_and_a_file_where_it_is_not() -> None:
    class Look(Callback):
        position = "checkpoint"
        seen: list[tuple[str | None, int]]

        def __init__(self) -> None:
            self.seen = []

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch:
                self.on_train_end(trainer, pl_module)

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
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


def test_a_class_may_have_other_constants() -> None:
    class Own(ModelCheckpoint):
        CHECKPOINT_JOIN_CHAR = "_"
        CHECKPOINT_EQUALS_CHAR = ":"
        CHECKPOINT_NAME_LAST = "newest"
        FILE_EXTENSION = ".pt"
        STARTING_VERSION = 7

    for _ in range(3):
        fit(Own("kept", save_last=True))
    names = ["epoch:0_step:4", "newest"]
    assert listing("kept") == sorted(f"{name}{end}.pt" for name in names for end in ("", "_v7", "_v8"))


# -- files of others, failures ----------------------------------------------------------------------------------------


def test_files_of_an_earlier_run_stay() -> None:
    for _ in range(2):
        fit(ModelCheckpoint("kept", save_last=True), max_epochs=2)
    assert listing("kept") == ["epoch=1-step=8-v1.ckpt", "epoch=1-step=8.ckpt", "last-v1.ckpt", "last.ckpt"]


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


def test_the_file_holds_what_all_do_in_the_hook_in_which_it_is_saved() -> None:
    """The module has `on_train_batch_end` after the callbacks; what it does there is in the file."""

    class Counting(Scripted):
        def __init__(self) -> None:
            super().__init__([1.0])
            self.register_buffer("ends", torch.tensor(0))

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            assert isinstance(self.ends, Tensor)
            self.ends += 1
            self.log("ends", float(self.ends))

    checkpoint = ModelCheckpoint("kept", "{step}-{ends:.0f}", "ends", every_n_train_steps=1, save_top_k=-1)
    fit(checkpoint, Counting())
    assert listing("kept") == [f"step={n}-ends={n}.ckpt" for n in range(1, 5)]
    for n, name in enumerate(listing("kept"), start=1):
        assert saved(checkpoint, name)["state_dict"]["ends"] == n


def test_after_a_save_there_may_be_logged_in_the_same_hook() -> None:
    class SaveAndLog(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint("mine.ckpt")
            self.log("saved", 1.0)

    assert fit(SaveAndLog()).callback_metrics["saved"] == 1.0


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
