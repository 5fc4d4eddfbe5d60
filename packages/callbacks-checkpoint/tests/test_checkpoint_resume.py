"""A resumed run: what it takes over, what it leaves alone, and that it ends as the uninterrupted one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint

SCORES = [5.0, 3.0, 4.0, 1.0, 2.0, 0.0]


class Scored(BoringModule):
    """Four training batches an epoch; the score depends on the epoch alone, so that it is the same after a resume."""

    def __init__(self) -> None:
        super().__init__(batches={"train": 4})

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", SCORES[self.current_epoch])


class StopAfter(Callback):
    """Cuts the run short after so many batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.batches_seen == self.batches:
            raise KeyboardInterrupt


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"logger": False, "num_sanity_val_steps": 0, "discover_callbacks": False}
    return Trainer(callbacks=list(callbacks), **(quiet | given))


def listing(folder: str | Path) -> list[str]:
    return sorted(os.listdir(folder))


def ranking(checkpoint: ModelCheckpoint) -> dict[str, float]:
    return {os.path.basename(path): float(score) for path, score in checkpoint.best_k_models.items()}


def test_the_ranking_is_taken_over_and_files_of_the_earlier_run_stay() -> None:
    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint("kept", "{epoch}", "val_loss", save_top_k=2, save_last=True)

    first, resumed = checkpoint(), checkpoint()
    trainer_with(first, max_epochs=3).fit(Scored())
    before = {name: Path("kept", name).read_bytes() for name in listing("kept") if name != "last.ckpt"}
    assert ranking(first) == {"epoch=1.ckpt": 3.0, "epoch=2.ckpt": 4.0}
    trainer_with(resumed, max_epochs=6).fit(Scored(), ckpt_path="kept/last.ckpt")
    assert ranking(resumed) == {"epoch=3.ckpt": 1.0, "epoch=5.ckpt": 0.0}
    assert {name: Path("kept", name).read_bytes() for name in before} == before
    # epoch=4 was saved by the resumed run, overtaken by epoch=5 and removed again
    assert listing("kept") == ["epoch=1.ckpt", "epoch=2.ckpt", "epoch=3.ckpt", "epoch=5.ckpt", "last.ckpt"]
    assert torch.load("kept/last.ckpt", weights_only=True)["global_step"] == 24
    assert resumed.last_model_path == os.path.abspath("kept/last.ckpt")


def test_a_name_of_the_earlier_run_is_not_reused() -> None:
    trainer_with(ModelCheckpoint("kept", "best", "val_loss"), max_epochs=1).fit(Scored())
    content = Path("kept/best.ckpt").read_bytes()
    resumed = ModelCheckpoint("kept", "best", "val_loss")
    trainer_with(resumed, max_epochs=6).fit(Scored(), ckpt_path="kept/best.ckpt")
    assert listing("kept") == ["best-v1.ckpt", "best.ckpt"]
    assert Path("kept/best.ckpt").read_bytes() == content
    assert ranking(resumed) == {"best-v1.ckpt": 0.0}


def test_the_earlier_best_is_still_the_best_where_nothing_beats_it() -> None:
    trainer_with(ModelCheckpoint("first", "{epoch}", "val_loss"), max_epochs=2).fit(Scored())
    resumed = ModelCheckpoint("second", "{epoch}", "val_loss")
    trainer_with(resumed, max_epochs=3).fit(Scored(), ckpt_path="first/epoch=1.ckpt")
    assert resumed.best_model_path == os.path.abspath("first/epoch=1.ckpt")
    assert resumed.best_model_score == 3.0
    assert not os.path.exists("second")


def test_a_folder_that_was_moved_is_found() -> None:
    trainer_with(ModelCheckpoint("first", "{epoch}", "val_loss", save_last=True), max_epochs=2).fit(Scored())
    shutil.move("first", "moved")
    resumed = ModelCheckpoint("moved", "{epoch}", "val_loss", save_last=True)
    trainer_with(resumed, max_epochs=3).fit(Scored(), ckpt_path="moved/epoch=1.ckpt")
    assert resumed.best_model_path == os.path.abspath("moved/epoch=1.ckpt")
    assert listing("moved") == ["epoch=1.ckpt", "last.ckpt"]


@pytest.mark.parametrize("monitor", ["val_loss", None])
def test_checkpoints_that_are_gone_are_forgotten_with_a_warning(monitor: str | None) -> None:
    first = ModelCheckpoint("kept", "{epoch}", monitor)
    trainer_with(first, max_epochs=1).fit(Scored())
    shutil.move("kept/epoch=0.ckpt", "elsewhere.ckpt")
    resumed = ModelCheckpoint("kept", "{epoch}", monitor)
    with pytest.warns(UserWarning, match=r"of the earlier run are gone and forgotten: .*epoch=0\.ckpt"):
        trainer_with(resumed, max_epochs=2).fit(Scored(), ckpt_path="elsewhere.ckpt")
    assert listing("kept") == ["epoch=1.ckpt"]
    assert resumed.best_model_path == os.path.abspath("kept/epoch=1.ckpt")


def test_fewer_may_be_kept_than_before() -> None:
    first = ModelCheckpoint("kept", "{epoch}", "val_loss", save_top_k=3)
    trainer_with(first, max_epochs=3).fit(Scored())
    resumed = ModelCheckpoint("kept", "{epoch}", "val_loss", save_top_k=1)
    trainer_with(resumed, max_epochs=4).fit(Scored(), ckpt_path="kept/epoch=2.ckpt")
    assert ranking(resumed) == {"epoch=3.ckpt": 1.0}
    assert listing("kept") == ["epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "epoch=3.ckpt"]


def test_another_metric_starts_a_ranking_of_its_own() -> None:
    first, resumed = ModelCheckpoint("kept", "{epoch}", "val_loss"), ModelCheckpoint("kept", "{epoch}", "train_loss")
    first.name = resumed.name = "best"
    resumed_state = {**first.state_dict(), "best_model_path": "somewhere", "last_model_path": "last"}
    with pytest.warns(UserWarning, match="starts a ranking of its own: the checkpoint's was by monitor='val_loss'"):
        resumed.load_state_dict(resumed_state)
    assert (resumed.best_model_path, resumed.last_model_path) == ("", "last")


def test_the_state_survives_the_round_trip() -> None:
    first, second = (ModelCheckpoint("kept", "{epoch}", "val_loss", save_top_k=2, save_last="link") for _ in range(2))
    trainer_with(first, max_epochs=3).fit(Scored())
    second.load_state_dict(first.state_dict())
    assert {**second.state_dict(), "watched": None} == {**first.state_dict(), "watched": None}
    trainer_with(first, max_epochs=3).fit(Scored(), ckpt_path="kept/last.ckpt")  # with nothing left to do
    trainer_with(second, max_epochs=3).fit(Scored(), ckpt_path="kept/last.ckpt")
    assert second.state_dict() == first.state_dict()


def test_a_save_that_waits_goes_on_waiting() -> None:
    """Due after 3 steps, cut before the validation at 4: the resumed run saves there, as the first one would have."""

    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint("kept", "{step}", "val_loss", every_n_train_steps=3, save_top_k=-1, save_last=True)

    with pytest.raises(KeyboardInterrupt):
        trainer_with(checkpoint(), StopAfter(3), max_epochs=1).fit(Scored())
    assert listing("kept") == ["last.ckpt"]
    trainer_with(checkpoint(), max_epochs=1).fit(Scored(), ckpt_path="kept/last.ckpt")
    assert listing("kept") == ["last.ckpt", "step=4.ckpt"]


class LoggedTwice(Scored):
    """The training loss of each step and of each epoch; the weights are the same ones each time."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss


MONITORS = st.sampled_from(["val_loss", "train_loss_step", "train_loss_epoch"])


@settings(max_examples=24, deadline=None, derandomize=True)
@given(cut=st.integers(3, 11), every=st.sampled_from([1, 2, 3]), accumulate=st.sampled_from([1, 2]), monitor=MONITORS)
def test_an_interrupted_run_leaves_the_state_of_the_uninterrupted_one(
    cut: int, every: int, accumulate: int, monitor: str
) -> None:
    """Wherever it is cut, resuming from its newest checkpoint gives the same ranking, scores and newest step."""

    def checkpoint(folder: str) -> ModelCheckpoint:
        return ModelCheckpoint(
            folder, "{epoch}-{step}", monitor, every_n_train_steps=every, save_top_k=3, save_last=True
        )

    for folder in ("whole", "cut"):
        shutil.rmtree(folder, ignore_errors=True)
    interval = None if monitor == "train_loss_epoch" else 2  # what is of whole epochs is not there before their end
    options: dict[str, Any] = {"max_epochs": 3, "accumulate_grad_batches": accumulate, "val_check_interval": interval}
    whole = checkpoint("whole")
    trainer_with(whole, **options).fit(LoggedTwice())
    first, resumed = checkpoint("cut"), checkpoint("cut")
    with pytest.raises(KeyboardInterrupt):
        trainer_with(first, StopAfter(cut), **options).fit(LoggedTwice())
    newest = first.last_model_path or None
    trainer_with(resumed, **options).fit(LoggedTwice(), ckpt_path=newest)
    assert ranking_without_versions(resumed) == ranking_without_versions(whole)
    for name in ("best_model_score", "current_score", "kth_value", "saved_at", "waits_for_score"):
        assert getattr(resumed, name) == getattr(whole, name), name
    assert resumed.state_dict()["watched"] == whole.state_dict()["watched"]
    assert torch.load("cut/last.ckpt", weights_only=True)["global_step"] == 12 // accumulate


def ranking_without_versions(checkpoint: ModelCheckpoint) -> list[tuple[str, float]]:
    """A resumed run keeps its hands off a file the first one wrote after the checkpoint, and calls its own ``-v1``."""
    return [(name.removesuffix(".ckpt").removesuffix("-v1"), score) for name, score in ranking(checkpoint).items()]
