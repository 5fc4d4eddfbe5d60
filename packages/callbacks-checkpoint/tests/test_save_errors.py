"""Saves that fail: the checkpoints before stay whole, and training stops or goes on as it was told to."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.state import storage
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint, files


class Scored(BoringModule):
    """Four training batches an epoch; the n-th validation logs the n-th score."""

    def __init__(self, *scores: float) -> None:
        super().__init__(batches={"train": 4, "val": 1})
        self.scores = scores

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.scores[self.trainer.current_epoch])


def trainer_with(*callbacks: Callback, max_epochs: int = 2) -> Trainer:
    return Trainer(
        max_epochs=max_epochs, logger=False, callbacks=callbacks, num_sanity_val_steps=0, discover_callbacks=False
    )


def steps() -> dict[str, int]:
    """The optimizer step of each file there is."""
    names = sorted(os.listdir("kept")) if os.path.isdir("kept") else []
    return {name: torch.load(f"kept/{name}", weights_only=True)["global_step"] for name in names}


def fail(monkeypatch: pytest.MonkeyPatch, *attempts: int) -> None:
    """Let these attempts to save, counted from one, find the disk full."""
    made, save = [0], storage.save

    def full(obj: Any, path: str | os.PathLike[str], copy_of: str | None = None) -> None:
        made[0] += 1
        if made[0] in attempts:
            raise OSError(28, "No space left on device", os.fspath(path))
        save(obj, path, copy_of)

    monkeypatch.setattr(storage, "save", full)


@pytest.mark.parametrize(
    ("fails_at", "files", "best", "last"),
    [
        (1, {}, "", ""),
        (2, {"epoch=0.ckpt": 4}, "epoch=0.ckpt", ""),
        (3, {"epoch=0.ckpt": 4, "last.ckpt": 4}, "epoch=0.ckpt", "last.ckpt"),
        (4, {"epoch=0.ckpt": 4, "epoch=1.ckpt": 8, "last.ckpt": 4}, "epoch=1.ckpt", "last.ckpt"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_save_that_fails_leaves_files_and_memory_as_they_were(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool, fails_at: int, files: dict[str, int], best: str, last: str
) -> None:
    fail(monkeypatch, fails_at)
    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss", save_last=True, asynchronous=asynchronous)
    trainer = trainer_with(checkpoint)
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(Scored(2.0, 1.0))
    assert steps() == files
    assert os.path.basename(checkpoint.best_model_path) == best
    assert os.path.basename(checkpoint.last_model_path) == last
    assert {os.path.basename(path) for path in checkpoint.best_k_models} == ({best} if best else set())
    assert str(trainer.state.status) == "interrupted"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_told_with_the_bytes_and_leaves_the_checkpoint_before_whole(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    write = os.write

    class Fill(Callback):
        """Lets the disk be full from the second epoch on."""

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1:
                checkpoint.finish_saving()
                monkeypatch.setattr(os, "write", self.refuse)

        @staticmethod
        def refuse(descriptor: int, data: Any) -> int:
            if descriptor <= 2:
                return write(descriptor, data)
            raise OSError(28, "No space left on device")

    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss", save_last="link", asynchronous=asynchronous)
    with pytest.raises(OSError, match="No space left on device") as full:
        trainer_with(checkpoint, Fill()).fit(Scored(2.0, 1.0))
    kept = os.path.abspath("kept")
    assert full.value.filename == f"{kept}/epoch=1.ckpt"
    assert re.search(r"it needs [\d,]+ bytes .*, free there: [\d,]+ bytes", str(full.value))
    assert steps() == {"epoch=0.ckpt": 4, "last.ckpt": 4}
    assert (checkpoint.best_model_path, checkpoint.last_model_path) == (f"{kept}/epoch=0.ckpt", f"{kept}/last.ckpt")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_where_training_goes_on_the_next_save_makes_up_for_it(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """Of four saves, each of a file and of the newest, the second cannot write its file and the third its newest."""
    fail(monkeypatch, 3, 5)
    checkpoint = ModelCheckpoint(
        "kept", "{epoch}", "val_loss", save_last=True, on_save_error="warn", asynchronous=asynchronous
    )
    trainer = trainer_with(checkpoint, max_epochs=4)
    with pytest.warns(UserWarning, match="ModelCheckpoint could not save") as warned:
        trainer.fit(Scored(4.0, 3.0, 2.0, 1.0))
    told = [str(warning.message) for warning in warned]
    kept = os.path.abspath("kept")
    assert [message.split(";")[0] for message in told] == [
        f"ModelCheckpoint could not save {kept}/epoch=1.ckpt and {kept}/last.ckpt",
        f"ModelCheckpoint could not save {kept}/last.ckpt",
    ]
    assert "No space left on device" in told[0]
    assert steps() == {"epoch=3.ckpt": 16, "last.ckpt": 16}
    assert str(trainer.state.status) == "finished"


def test_an_interrupt_while_saving_is_no_error_to_go_on_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(obj: Any, path: str, copy_of: str | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "save", interrupted)
    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss", on_save_error="warn")
    with pytest.raises(KeyboardInterrupt):
        trainer_with(checkpoint).fit(Scored(2.0, 1.0))
    assert (checkpoint.best_model_path, checkpoint.best_k_models, checkpoint.saved_at) == ("", {}, None)


def test_what_cannot_be_saved_at_all_stops_training_at_once() -> None:
    """A module that puts into a checkpoint what no file can hold is a mistake in it, and no matter of the disk."""

    class Wrong(Scored):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            raise MisconfigurationException("nothing to save")

    for asynchronous in (False, True):
        checkpoint = ModelCheckpoint("kept", on_save_error="warn", asynchronous=asynchronous)
        with pytest.raises(MisconfigurationException, match="nothing to save"):
            trainer_with(checkpoint).fit(Wrong(1.0, 1.0))
        assert checkpoint.best_model_path == ""


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_no_file_can_hold_stops_training_however_errors_of_the_disk_are_met(asynchronous: bool) -> None:
    class Wrong(Scored):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = open_for_good

    checkpoint = ModelCheckpoint("kept", on_save_error="warn", asynchronous=asynchronous)
    with Path("file").open("w") as open_for_good, pytest.raises(TypeError, match="pickle"):
        trainer_with(checkpoint).fit(Wrong(1.0, 1.0))
    assert steps() == {}


def test_a_file_that_cannot_be_removed_is_told_of_and_the_new_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(files, "remove", refuse)
    checkpoint = ModelCheckpoint("kept", "{epoch}", "val_loss", on_save_error="warn")
    with pytest.warns(UserWarning, match=r"could not remove what is superseded; .*Permission denied: .*epoch=0\.ckpt"):
        trainer_with(checkpoint).fit(Scored(2.0, 1.0))
    assert os.path.basename(checkpoint.best_model_path) == "epoch=1.ckpt"
    assert steps() == {"epoch=0.ckpt": 4, "epoch=1.ckpt": 8}


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    checkpoint = ModelCheckpoint(tmp_path / "file" / "kept")
    with pytest.raises(OSError, match="file"):
        trainer_with(checkpoint).fit(Scored(1.0, 1.0))
    assert (tmp_path / "file").read_text() == "in the way"


def test_what_was_saved_before_the_error_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(module: LightningModule) -> Tensor:
        return next(module.parameters()).detach()

    torch.manual_seed(1)
    whole = Scored(3.0, 2.0, 1.0)
    trainer_with(ModelCheckpoint("whole"), max_epochs=3).fit(whole)
    torch.manual_seed(1)
    with monkeypatch.context() as patch:
        fail(patch, 2)
        first = ModelCheckpoint("kept", "{epoch}", "val_loss")
        with pytest.raises(OSError, match="No space"):
            trainer_with(first, max_epochs=3).fit(Scored(3.0, 2.0, 1.0))
    resumed = Scored(3.0, 2.0, 1.0)
    trainer_with(ModelCheckpoint("kept", "{epoch}", "val_loss"), max_epochs=3).fit(
        resumed, ckpt_path=first.best_model_path
    )
    assert torch.equal(weights(resumed), weights(whole))
