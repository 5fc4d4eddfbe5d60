"""Ranking by a score: the best k are kept, and a score stands only beside the weights it was measured with."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import pytest
import torch
from scripted_runs import Scripted, fit, listing, saved, steps
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden_checkpoint import ModelCheckpoint

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


class Halving(Callback):
    """Changes weights between the validation and the end of the epoch."""

    def __init__(self, says_so: bool) -> None:
        self.changes_weights = says_so

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.layer.weight.mul_(0.5)


@pytest.mark.parametrize("monitor", ["val_loss", None])
@pytest.mark.parametrize("says_so", [True, False])
def test_a_score_is_saved_before_an_epochs_end_that_changes_the_weights(says_so: bool, monitor: str | None) -> None:
    measured: list[Tensor] = []

    class Measuring(Scripted):
        def on_validation_end(self) -> None:
            measured.append(self.layer.weight.detach().clone())

    checkpoint = ModelCheckpoint("kept", "{epoch}", monitor)
    fit([Halving(says_so), checkpoint], Measuring([1.0]))
    weights = saved(checkpoint, "epoch=0.ckpt")["state_dict"]["layer.weight"]
    assert torch.equal(weights, measured[0] * (1 if says_so and monitor else 0.5))


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


def test_after_a_validation_the_newest_value_of_training_steps_counts() -> None:
    class Counting(Scripted):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.log("batch", float(batch_idx))
            return self.loss(batch)

    checkpoint = ModelCheckpoint("kept", "{step}-{batch:.0f}", "batch", save_top_k=-1, save_on_train_epoch_end=False)
    fit(checkpoint, Counting([1.0], batches=8), val_check_interval=3)
    assert steps(checkpoint) == {"step=3-batch=2.ckpt": 3, "step=6-batch=5.ckpt": 6}


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
