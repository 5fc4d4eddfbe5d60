"""ModelCheckpoint(asynchronous=True): training goes on while a thread writes, and nothing is lost by it.

The disk of these tests stands still until the callback waits for it, so that every order of events is forced.
"""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.loggers import CSVLogger
from leyden.state import storage
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint, files
from leyden_checkpoint.background import RESERVED


class Disk:
    """`storage.save` and `files.remove` that tell, and that stand still while the gate is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.fails: set[int] = set()
        self.gate = threading.Event()
        self.contents: list[dict[str, Any]] = []
        self._save, self._remove = storage.save, files.remove
        monkeypatch.setattr(storage, "save", self.save)
        monkeypatch.setattr(files, "remove", self.remove)

    def save(self, obj: Any, path: str, copy_of: str | None = None) -> None:
        name = os.path.basename(path)
        self.events.append(f"begin {name}")
        self.contents.append(obj)
        assert self.gate.wait(60)
        if len(self.contents) in self.fails:
            self.events.append(f"fail {name}")
            raise OSError(28, "No space left on device", path)
        self._save(obj, path, copy_of)
        self.events.append(f"end {name}")

    def remove(self, path: str) -> None:
        whole = [name for name in listing() if name != os.path.basename(path)]
        for name in whole:
            torch.load(f"kept/{name}", weights_only=True)
        self.events.append(f"remove {os.path.basename(path)}, {' and '.join(whole)} whole")
        self._remove(path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


class Waiting(ModelCheckpoint):
    """Opens the gate when it begins to wait for a save, and shuts it when it has waited."""

    def __init__(self, disk: Disk, dirpath: str, filename: str, monitor: str | None = None, **named: Any) -> None:
        super().__init__(dirpath, filename, monitor, asynchronous=True, **named)
        self.disk = disk

    @property
    def state_key(self) -> str:
        return "Waiting"

    def finish_saving(self, *, alone: bool = False) -> None:
        if self._in_flight is None:
            return
        self.disk.events.append("wait")
        self.disk.gate.set()
        try:
            super().finish_saving(alone=alone)
        finally:
            self.disk.gate.clear()


class Tell(Callback):
    """Writes down each training step; fails in the one it is told to."""

    def __init__(self, disk: Disk, fails_at: int = 0, exception: type[BaseException] = RuntimeError) -> None:
        self.disk, self.fails_at, self.exception = disk, fails_at, exception

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.disk.events.append(f"step {trainer.global_step + 1}")
        if trainer.global_step + 1 == self.fails_at:
            raise self.exception("in the step")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.disk.events.append("train end")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.disk.events.append("fit end")


class Scored(BoringModule):
    """Two training batches an epoch; the n-th validation logs the n-th score."""

    def __init__(self, scores: Sequence[float] = (1.0,)) -> None:
        super().__init__(batches={"train": 2, "val": 1})
        self.scores = scores

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.scores[min(self.trainer.current_epoch, len(self.scores) - 1)])


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0, "discover_callbacks": False}
    return Trainer(callbacks=list(callbacks), **(quiet | given))


def listing() -> list[str]:
    return sorted(name for name in os.listdir("kept") if not name.startswith("."))


def test_training_goes_on_while_one_save_is_in_flight_and_the_next_waits_for_it(disk: Disk) -> None:
    checkpoint = Waiting(disk, "kept", "{step}", every_n_train_steps=2, save_top_k=-1)
    trainer_with(checkpoint, Tell(disk), max_epochs=3).fit(Scored())
    assert disk.events == [
        "step 1", "step 2", "begin step=2.ckpt",
        "step 3", "step 4", "wait", "end step=2.ckpt", "begin step=4.ckpt",
        "step 5", "step 6", "wait", "end step=4.ckpt", "begin step=6.ckpt",
        "train end", "wait", "end step=6.ckpt", "fit end",
    ]  # fmt: skip
    assert checkpoint.best_model_path == os.path.abspath("kept/step=6.ckpt")
    assert not RESERVED


def test_a_file_holds_the_step_it_was_made_at_whatever_training_did_meanwhile(disk: Disk) -> None:
    class Remember(Callback):
        weights: dict[int, Tensor] = {}  # noqa: RUF012

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.weights[trainer.global_step] = next(pl_module.parameters()).detach().clone()

    remember = Remember()
    checkpoint = Waiting(disk, "kept", "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer_with(remember, checkpoint, max_epochs=2).fit(Scored())
    assert listing() == ["step=1.ckpt", "step=2.ckpt", "step=3.ckpt", "step=4.ckpt"]
    for step in range(1, 5):
        content = torch.load(f"kept/step={step}.ckpt", weights_only=True)
        assert content["global_step"] == step
        assert torch.equal(content["state_dict"]["layer.weight"], remember.weights[step])
    assert not torch.equal(remember.weights[1], remember.weights[2])


def test_files_are_the_same_as_without() -> None:
    for folder, asynchronous in (("sync", False), ("async", True)):
        torch.manual_seed(0)
        checkpoint = ModelCheckpoint(folder, "{epoch}", "val_loss", asynchronous=asynchronous, save_last=True)
        trainer_with(checkpoint, max_epochs=3).fit(Scored([3.0, 1.0, 2.0]))
    assert sorted(os.listdir("sync")) == sorted(os.listdir("async")) == ["epoch=1.ckpt", "last.ckpt"]
    for name in ("epoch=1.ckpt", "last.ckpt"):
        one, other = (torch.load(f"{folder}/{name}", weights_only=True) for folder in ("sync", "async"))
        assert torch.equal(one["state_dict"]["layer.weight"], other["state_dict"]["layer.weight"])
        assert one.keys() == other.keys()
        states = [next(iter(content["callbacks"].values())) for content in (one, other)]
        assert [os.path.basename(state["best_model_path"]) for state in states] == ["epoch=1.ckpt"] * 2


def test_what_is_superseded_goes_when_the_new_file_is_whole(disk: Disk) -> None:
    checkpoint = Waiting(disk, "kept", "{epoch}", "val_loss", save_last="link")
    trainer_with(checkpoint, Tell(disk), max_epochs=3).fit(Scored([3.0, 2.0, 1.0]))
    assert disk.events == [
        "step 1", "step 2", "begin epoch=0.ckpt",
        "step 3", "step 4", "wait", "end epoch=0.ckpt",
        "begin epoch=1.ckpt",
        "step 5", "step 6", "wait", "end epoch=1.ckpt", "remove epoch=0.ckpt, epoch=1.ckpt and last.ckpt whole",
        "begin epoch=2.ckpt",
        "train end", "wait", "end epoch=2.ckpt", "remove epoch=1.ckpt, epoch=2.ckpt and last.ckpt whole",
        "fit end",
    ]  # fmt: skip
    assert (listing(), os.readlink("kept/last.ckpt")) == (["epoch=2.ckpt", "last.ckpt"], "epoch=2.ckpt")


def test_a_score_that_is_not_among_the_best_waits_for_nothing(disk: Disk) -> None:
    checkpoint = Waiting(disk, "kept", "{epoch}", "val_loss")
    trainer_with(checkpoint, Tell(disk), max_epochs=3).fit(Scored([1.0, 2.0, 3.0]))
    assert disk.events == [
        "step 1", "step 2", "begin epoch=0.ckpt", "step 3", "step 4", "step 5", "step 6",
        "train end", "wait", "end epoch=0.ckpt", "fit end",
    ]  # fmt: skip
    assert float(checkpoint.current_score or 0) == 3.0


# -- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_surfaces_at_the_next_save(disk: Disk) -> None:
    disk.fails = {2}
    checkpoint = Waiting(disk, "kept", "{step}", every_n_train_steps=1)
    with pytest.raises(OSError, match=r"No space left on device: .*step=2\.ckpt") as raised:
        trainer_with(checkpoint, Tell(disk), max_epochs=3).fit(Scored())
    assert disk.events == [
        "step 1", "begin step=1.ckpt", "step 2", "wait", "end step=1.ckpt",
        "begin step=2.ckpt", "step 3", "wait", "fail step=2.ckpt",
    ]  # fmt: skip
    assert f"in the background, while {os.path.abspath('kept/step=2.ckpt')} was being saved" in notes(raised.value)
    assert listing() == ["step=1.ckpt"]
    assert checkpoint.best_model_path == os.path.abspath("kept/step=1.ckpt")


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def test_an_error_of_the_last_save_surfaces_at_the_end(disk: Disk) -> None:
    disk.fails = {2}
    checkpoint = Waiting(disk, "kept", "{epoch}", "val_loss")
    trainer = trainer_with(checkpoint, Tell(disk), max_epochs=2)
    with pytest.raises(OSError, match="No space left"):
        trainer.fit(Scored([2.0, 1.0]))
    assert disk.events[-4:] == ["begin epoch=1.ckpt", "train end", "wait", "fail epoch=1.ckpt"]
    assert listing() == ["epoch=0.ckpt"]
    assert os.path.basename(checkpoint.best_model_path) == "epoch=0.ckpt"
    assert float(checkpoint.best_model_score or 0) == 2.0
    assert {os.path.basename(path) for path in checkpoint.best_k_models} == {"epoch=0.ckpt"}
    assert str(trainer.state.status) == "interrupted"


def test_training_goes_on_after_an_error_where_that_is_wanted(disk: Disk) -> None:
    """The second save fails: the best is the first again, and the third, not better than the second, is kept."""
    disk.fails = {2}
    checkpoint = Waiting(disk, "kept", "{epoch}", "val_loss", on_save_error="warn")
    trainer = trainer_with(checkpoint, max_epochs=4)
    with pytest.warns(UserWarning, match=r"could not save .*epoch=1\.ckpt; training goes on \(on_save_error='warn'\)"):
        trainer.fit(Scored([4.0, 1.0, 2.0, 0.5]))
    assert listing() == ["epoch=3.ckpt"]
    assert str(trainer.state.status) == "finished"


def test_after_an_error_a_score_that_came_meanwhile_is_still_the_current_one(disk: Disk) -> None:
    disk.fails = {1}
    checkpoint = Waiting(disk, "kept", "{epoch}", "val_loss", on_save_error="warn")
    with pytest.warns(UserWarning, match=r"could not save .*epoch=0\.ckpt"):
        trainer_with(checkpoint, max_epochs=2).fit(Scored([1.0, 2.0]))
    assert (checkpoint.best_model_path, checkpoint.best_k_models, checkpoint.best_model_score) == ("", {}, None)
    assert float(checkpoint.current_score or 0) == 2.0
    assert checkpoint.saved_at is None


def test_an_exception_in_training_waits_for_the_save_in_flight(disk: Disk) -> None:
    checkpoint = Waiting(disk, "kept", "{step}", every_n_train_steps=1)
    with pytest.raises(RuntimeError, match="in the step"):
        trainer_with(checkpoint, Tell(disk, fails_at=2), max_epochs=3).fit(Scored())
    assert disk.events == ["step 1", "begin step=1.ckpt", "step 2", "wait", "end step=1.ckpt"]
    assert listing() == ["step=1.ckpt"]


def test_an_error_in_flight_is_noted_on_the_exception_that_ends_training(disk: Disk) -> None:
    disk.fails = {1}
    checkpoint = Waiting(disk, "kept", "{step}", every_n_train_steps=1)
    with pytest.raises(RuntimeError, match="in the step") as raised:
        trainer_with(checkpoint, Tell(disk, fails_at=2), max_epochs=3).fit(Scored())
    assert "No space left on device" in notes(raised.value)


def test_what_is_saved_on_an_exception_is_saved_before_the_run_ends(disk: Disk) -> None:
    class Open(Tell):
        def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
            self.disk.gate.set()

    checkpoint = ModelCheckpoint("kept", "{step}", every_n_train_steps=1, asynchronous=True, save_on_exception=True)
    checkpoint.every_n_train_steps = 5
    with pytest.raises(KeyboardInterrupt):
        trainer_with(checkpoint, Open(disk, fails_at=3, exception=KeyboardInterrupt), max_epochs=3).fit(Scored())
    assert disk.events == ["step 1", "step 2", "step 3", "begin step=2.ckpt", "end step=2.ckpt"]
    assert torch.load("kept/step=2.ckpt", weights_only=True)["global_step"] == 2


# -- names, loggers, copies --------------------------------------------------------------------------------------------


def test_a_name_in_flight_is_taken(disk: Disk) -> None:
    """Two callbacks in one folder decide on the same step; the first file is not there yet."""
    disk.gate.set()
    first, second = (
        ModelCheckpoint("kept", "{epoch}", save_top_k=k, asynchronous=True, monitor=m)
        for k, m in ((1, "val_loss"), (-1, None))
    )
    trainer_with(first, second).fit(Scored())
    assert listing() == ["epoch=0-v1.ckpt", "epoch=0.ckpt"]
    assert len({first.best_model_path, second.best_model_path}) == 2


def test_one_name_can_be_written_again_and_again(disk: Disk) -> None:
    checkpoint = Waiting(disk, "kept", "fixed", every_n_train_steps=1, save_last=True)
    trainer_with(checkpoint, max_epochs=2).fit(Scored())
    assert listing() == ["fixed.ckpt", "last.ckpt"]
    assert [torch.load(f"kept/{name}", weights_only=True)["global_step"] for name in listing()] == [4, 4]


def test_loggers_are_told_when_the_file_is_there(disk: Disk) -> None:
    class Told(CSVLogger):
        seen: list[bool] = []  # noqa: RUF012

        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            self.seen.append(os.path.exists(checkpoint_callback.best_model_path))

    logger = Told("logs")
    trainer_with(Waiting(disk, "kept", "{epoch}"), logger=logger, max_epochs=2).fit(Scored())
    assert logger.seen == [True, True]


def test_who_wants_to_read_a_file_can_wait_for_it_and_copies_have_nothing_in_flight(disk: Disk) -> None:
    class Read(Callback):
        found: list[bool] = []  # noqa: RUF012

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            checkpoint = trainer.checkpoint_callback
            assert isinstance(checkpoint, ModelCheckpoint)
            self.found.append(os.path.exists(checkpoint.best_model_path))
            copy = pickle.loads(pickle.dumps(plain(checkpoint)))
            copy.finish_saving()
            assert copy.best_model_path == checkpoint.best_model_path
            checkpoint.finish_saving()
            self.found.append(os.path.exists(checkpoint.best_model_path))

    read = Read()
    trainer_with(Waiting(disk, "kept", "{epoch}"), read).fit(Scored())
    assert read.found == [False, True]


def plain(checkpoint: ModelCheckpoint) -> ModelCheckpoint:
    """The same callback without the test's own gate, which no pickle can hold."""
    copied = ModelCheckpoint()
    copied.__dict__.update({name: value for name, value in checkpoint.__dict__.items() if name != "disk"})
    return copied


def test_a_run_resumes_from_what_was_saved_in_the_background() -> None:
    def weights(*callbacks: Callback, epochs: int, ckpt_path: str | None = None) -> Tensor:
        torch.manual_seed(3)
        module = Scored([3.0, 2.0, 1.0])
        trainer_with(*callbacks, max_epochs=epochs).fit(module, ckpt_path=ckpt_path)
        return module.layer.weight.detach()

    whole = weights(ModelCheckpoint("whole", asynchronous=True), epochs=3)
    first, resumed = (ModelCheckpoint("kept", "{epoch}", "val_loss", asynchronous=True) for _ in range(2))
    weights(first, epochs=2)
    assert torch.equal(weights(resumed, epochs=3, ckpt_path=first.best_model_path), whole)
    assert [os.path.basename(path) for path in resumed.best_k_models] == ["epoch=2.ckpt"]
    assert listing() == ["epoch=1.ckpt", "epoch=2.ckpt"]
