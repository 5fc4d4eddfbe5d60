"""Checkpoints at URLs, through fsspec: written, ranked, rotated and resumed as in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.state import storage
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint, OnExceptionCheckpoint

SCORES = [3.0, 1.0, 2.0, 0.5]


class Scored(BoringModule):
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", SCORES[self.current_epoch])


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    memory = fsspec.filesystem("memory")
    yield
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"max_epochs": 3, "logger": False, "num_sanity_val_steps": 0, "discover_callbacks": False}
    return Trainer(callbacks=list(callbacks), **(quiet | given))


def listing(folder: str = "kept") -> list[str]:
    memory = fsspec.filesystem("memory")
    return sorted(name.rpartition("/")[2] for name in memory.find(folder))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("save_last", [True, "link"])
def test_the_best_and_the_newest_are_kept(asynchronous: bool, save_last: Any) -> None:
    checkpoint = ModelCheckpoint(
        "memory://kept/", "{epoch}", "val_loss", save_last=save_last, asynchronous=asynchronous
    )
    trainer_with(checkpoint).fit(Scored())
    assert listing() == ["epoch=1.ckpt", "last.ckpt"]
    assert checkpoint.best_model_path == "memory://kept/epoch=1.ckpt"
    assert checkpoint.last_model_path == "memory://kept/last.ckpt"
    assert storage.load("memory://kept/last.ckpt")["global_step"] == 6
    assert not os.path.exists("memory:")


def test_a_run_goes_on_from_there_and_leaves_what_was_there_alone() -> None:
    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint("memory://kept", "{epoch}", "val_loss", save_last=True)

    def weights(callback: ModelCheckpoint, epochs: int, ckpt_path: str | None = None) -> Tensor:
        torch.manual_seed(2)
        module = Scored()
        trainer_with(callback, max_epochs=epochs).fit(module, ckpt_path=ckpt_path)
        return module.layer.weight.detach()

    whole = weights(ModelCheckpoint("whole"), 4)
    first, resumed = checkpoint(), checkpoint()
    weights(first, 3)
    assert torch.equal(weights(resumed, 4, first.last_model_path), whole)
    assert list(resumed.best_k_models) == ["memory://kept/epoch=3.ckpt"]
    assert listing() == ["epoch=1.ckpt", "epoch=3.ckpt", "last.ckpt"]


@pytest.mark.parametrize("ckpt_path", ["auto", "last"])
def test_a_new_process_finds_the_newest_there(ckpt_path: str) -> None:
    trainer_with(ModelCheckpoint("memory://kept", save_last=True), max_epochs=1).fit(Scored())
    trainer = trainer_with(ModelCheckpoint("memory://kept", save_last=True), max_epochs=2)
    trainer.fit(Scored(), ckpt_path=ckpt_path)
    assert str(trainer.ckpt_path).endswith("kept/last.ckpt" if ckpt_path == "last" else ".ckpt")
    assert (trainer.global_step, trainer.fit_loop.batches_seen) == (4, 4)


def test_names_that_are_taken_get_a_version() -> None:
    for _ in range(2):
        trainer_with(ModelCheckpoint("memory://kept", "best"), max_epochs=1).fit(Scored())
    assert listing() == ["best-v1.ckpt", "best.ckpt"]


def test_a_folder_that_was_moved_is_found() -> None:
    trainer_with(ModelCheckpoint("memory://kept", "{epoch}", "val_loss"), max_epochs=2).fit(Scored())
    fsspec.filesystem("memory").mv("/kept", "/moved", recursive=True)
    resumed = ModelCheckpoint("memory://moved", "{epoch}", "val_loss")
    trainer_with(resumed).fit(Scored(), ckpt_path="memory://moved/epoch=1.ckpt")
    assert resumed.best_model_path == "memory://moved/epoch=1.ckpt"


def test_the_ranking_can_be_written_there() -> None:
    checkpoint = ModelCheckpoint("memory://kept", "{epoch}", "val_loss")
    trainer_with(checkpoint).fit(Scored())
    checkpoint.to_yaml()
    text = fsspec.filesystem("memory").cat("/kept/best_k_models.yaml")
    assert text == b'"memory://kept/epoch=1.ckpt": 1.0\n'


def test_the_folder_of_a_root_that_is_a_url() -> None:
    checkpoint = ModelCheckpoint(filename="{epoch}")
    trainer_with(checkpoint, max_epochs=1, default_root_dir="memory://root").fit(Scored())
    assert checkpoint.best_model_path == "memory://root/checkpoints/epoch=0.ckpt"


def test_what_an_exception_cuts_is_saved_there() -> None:
    class Break(Callback):
        def on_train_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    checkpoint = OnExceptionCheckpoint("memory://kept")
    with pytest.raises(KeyboardInterrupt):
        trainer_with(checkpoint, Break()).fit(Scored())
    assert checkpoint.ckpt_path == "memory://kept/on_exception.ckpt"
    assert storage.load(checkpoint.ckpt_path)["global_step"] == 3


def test_a_file_url_is_a_path(tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(f"file://{tmp_path}/kept", "{epoch}", save_last="link")
    trainer_with(checkpoint).fit(Scored())
    assert checkpoint.best_model_path == f"{tmp_path}/kept/epoch=2.ckpt"
    assert os.readlink(tmp_path / "kept" / "last.ckpt") == "epoch=2.ckpt"


def test_a_place_that_nobody_knows_is_an_error_at_once() -> None:
    with pytest.raises(MisconfigurationException, match="fsspec knows no such place"):
        OnExceptionCheckpoint("nowhere://a")


def test_only_what_this_run_wrote_is_removed_and_only_after_the_next_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run before is overtaken twice; of the two that overtake it the first is this run's own."""

    def checkpoint() -> ModelCheckpoint:
        return ModelCheckpoint("memory://kept", "{epoch}", "epoch", mode="max", save_last=True)

    memory = fsspec.filesystem("memory")
    really_remove, removed = type(memory).rm, list[tuple[str, dict[str, int]]]()

    def remove(self: Any, path: str, *args: Any, **given: Any) -> None:
        names = [name for name in memory.find("/kept") if name.endswith(".ckpt")]
        whole = {name.rpartition("/")[2]: storage.load(f"memory:/{name}")["global_step"] for name in names}
        if path.endswith(".ckpt"):
            removed.append((path.rpartition("/")[2], whole))
        really_remove(self, path, *args, **given)

    trainer_with(checkpoint(), max_epochs=1).fit(Scored())
    monkeypatch.setattr(type(memory), "rm", remove)
    trainer_with(checkpoint(), max_epochs=3).fit(Scored(), ckpt_path="auto")
    assert removed == [("epoch=1.ckpt", {"epoch=0.ckpt": 2, "epoch=1.ckpt": 4, "epoch=2.ckpt": 6, "last.ckpt": 6})]
    assert listing() == ["epoch=0.ckpt", "epoch=2.ckpt", "last.ckpt"]


def test_a_newest_that_a_kill_left_behind_is_brought_up_to_date() -> None:
    """The first of two that keep only the newest has written it at the very end, the second has not."""

    class Killed(BaseException):
        pass

    def both() -> list[Callback]:
        return [
            ModelCheckpoint(f"memory://kept/{monitor}", None, monitor, save_top_k=0, save_last=True)
            for monitor in (None, "val_loss")
        ]

    really_save = storage.save

    def save(content: Any, path: str, copy_of: str | None = None) -> None:
        if content["global_step"] == 6 and "val_loss" in path:
            raise Killed
        really_save(content, path, copy_of)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "save", save)
        with pytest.raises(Killed):
            trainer_with(*both()).fit(Scored())
    places = [f"memory://kept/{name}/last.ckpt" for name in ("None", "val_loss")]
    assert [storage.load(place)["global_step"] for place in places] == [6, 4]
    trainer = trainer_with(*both())
    trainer.fit(Scored(), ckpt_path="auto")
    assert str(trainer.ckpt_path) == places[0]
    first, second = (storage.load(place) for place in places)
    assert second["global_step"] == 6
    for part in ("state_dict", "optimizer_states", "loops", "rng", "epoch"):
        assert repr(second[part]) == repr(first[part])
