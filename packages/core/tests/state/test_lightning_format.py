"""Checkpoints of Lightning 1.x and 2.x: what of a run is read from them, and where it goes on."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from leyden import Callback, Trainer
from leyden.state.lightning_format import from_lightning, is_of_lightning
from leyden.state.storage import load
from leyden.testing import BoringModule, RandomDataset

BATCHES = 6


class Net(BoringModule):
    """Adam and a schedule by epochs over six batches."""

    def __init__(self, shuffle: bool = True) -> None:
        super().__init__(batches={"train": BATCHES})
        self.shuffle, self.started = shuffle, list[tuple[int, int]]()

    def train_dataloader(self) -> Any:
        one: DataLoader[Any] = DataLoader(RandomDataset(4, BATCHES), shuffle=self.shuffle)
        return one

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.started.append((self.trainer.current_epoch, batch_idx))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class EarlyStopping(Callback):
    """Keeps what it is given, under a key with arguments, as its namesake does."""

    def __init__(self, monitor: str = "v") -> None:
        self.monitor, self.got = monitor, list[Any]()

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor, mode="min")

    def state_dict(self) -> dict[str, Any]:
        return {"wait_count": 2}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.got.append(state_dict["wait_count"])


def make(*callbacks: Callback, **settings: Any) -> Trainer:
    settings = {"max_epochs": 4, "accelerator": "cpu", "logger": False, "enable_progress_bar": False, **settings}
    return Trainer(callbacks=callbacks, discover_callbacks=False, **settings)


def parts(epochs: int = 2) -> dict[str, Any]:
    """Weights, optimizers and schedulers after some epochs."""
    trainer = make(max_epochs=epochs)
    trainer.fit(Net())
    return {
        "state_dict": trainer.lightning_module.state_dict(),
        "optimizer_states": [trainer.optimizers[0].state_dict()],
        "lr_schedulers": [trainer.lr_scheduler_configs[0].scheduler.state_dict()],
    }


def counts(done: int, processed: int | None = None) -> dict[str, int]:
    processed = done if processed is None else processed
    return {"ready": processed, "started": processed, "processed": processed, "completed": done}


def loops(epoch: int, current: dict[str, int], total: dict[str, int], last: bool, in_epoch: bool = True) -> Any:
    """What 1.5 and later write of the fit."""
    of_epochs = {"ready": epoch + in_epoch, "started": epoch + in_epoch, "processed": epoch, "completed": epoch}
    return {
        "fit_loop": {
            "state_dict": {},
            "epoch_loop.state_dict": {"_batches_that_stepped": total["completed"]},
            "epoch_loop.batch_progress": {"current": current, "total": total, "is_last_batch": last},
            "epoch_progress": {"current": of_epochs, "total": of_epochs},
        }
    }


def version_1(**entries: Any) -> dict[str, Any]:
    """A checkpoint of 1.0 to 1.4, which has no loops: its epoch is the one to begin."""
    return {"pytorch-lightning_version": "1.4.9", "epoch": 2, "global_step": 2 * BATCHES, **parts(), **entries}


def resumed(checkpoint: Any, *callbacks: Callback, **settings: Any) -> tuple[Trainer, Net]:
    path = Path("lightning.ckpt")
    torch.save(checkpoint, path)
    trainer, module = make(*callbacks, **settings), Net()
    with pytest.warns(UserWarning, match=r"was written by Lightning .* random numbers, the order of the data"):
        trainer.fit(module, ckpt_path=path)
    return trainer, module


def test_a_run_of_version_1_goes_on_at_the_next_epoch() -> None:
    checkpoint = version_1()
    trainer, module = resumed(checkpoint, max_epochs=2)
    assert module.started == []
    assert (trainer.current_epoch, trainer.global_step) == (2, 12)
    assert torch.equal(module.layer.weight, checkpoint["state_dict"]["layer.weight"])
    trainer, module = resumed(checkpoint)
    assert module.started == [(epoch, batch) for epoch in (2, 3) for batch in range(BATCHES)]
    assert (trainer.current_epoch, trainer.global_step) == (4, 24)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.05 * 0.5**4
    assert int(trainer.optimizers[0].state[module.layer.weight]["step"]) == 24


LAST = [
    "at the end of an epoch", "in its last batch's hooks", "in the middle", "within a batch's hooks", "between epochs",
]  # fmt: skip
PLACES = [
    (loops(1, counts(6), counts(12), True), 12, (2, 0), 12),
    (loops(1, counts(5, 6), counts(11, 12), True), 12, (2, 0), 12),
    (loops(1, counts(3), counts(9), False), 9, (1, 3), 9),
    (loops(1, counts(3, 4), counts(9, 10), False), 10, (1, 4), 10),
    (loops(2, counts(6), counts(12), True, in_epoch=False), 12, (2, 0), 12),
]


@pytest.mark.parametrize(("of_loops", "step", "first", "logged"), PLACES, ids=LAST)
@pytest.mark.parametrize("version", ["1.6.4", "2.6.0"])
def test_a_run_goes_on_where_its_loops_say(
    of_loops: Any, step: int, first: tuple[int, int], logged: int, version: str
) -> None:
    checkpoint = version_1(loops=of_loops, epoch=1, global_step=step) | {"pytorch-lightning_version": version}
    trainer, module = resumed(checkpoint)
    everything = [(epoch, batch) for epoch in range(4) for batch in range(BATCHES)]
    assert module.started == everything[everything.index(first) :]
    assert trainer.global_step == step + len(module.started)
    assert trainer.fit_loop.batches_that_stepped == logged + len(module.started)


def test_several_loaders_go_on_in_the_middle_too() -> None:
    class Two(Net):
        def train_dataloader(self) -> Any:
            return {"a": super().train_dataloader(), "b": [torch.ones(1, 4)] * 3}

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["a"], batch_idx)

    torch.save(version_1(loops=PLACES[2][0], epoch=1, global_step=9), "a.ckpt")
    module = Two()
    with pytest.warns(UserWarning, match="written by Lightning"):
        make(max_epochs=2).fit(module, ckpt_path="a.ckpt")
    assert module.started == [(1, 3), (1, 4), (1, 5)]


@pytest.mark.parametrize(
    "key",
    [
        "EarlyStopping",
        "EarlyStopping{'monitor': 'v', 'mode': 'min'}",
        "EarlyStopping{'monitor': 'v', 'mode': 'max'}",
        "lightning.pytorch.callbacks.early_stopping.EarlyStopping{'monitor': 'v', 'mode': 'min'}",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    ],
)
@pytest.mark.filterwarnings("ignore:.*goes on from the state of")
def test_callbacks_are_known_by_class_name_whatever_the_key(key: str) -> None:
    stopping = EarlyStopping()
    resumed(version_1(callbacks={key: {"wait_count": 1, "stopping_reason": 0}}), stopping)
    assert stopping.got == [1]


@pytest.mark.filterwarnings("ignore:.*goes on from the state of")
def test_callbacks_are_known_by_class_where_the_key_is_the_class_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pytorch_lightning.callbacks.early_stopping")
    foreign = type("EarlyStopping", (), {"__module__": module.__name__})
    module.EarlyStopping = foreign  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            patched.setitem(sys.modules, name, ModuleType(name))
        patched.setitem(sys.modules, module.__name__, module)
        torch.save(version_1(callbacks={foreign: {"wait_count": 3}}), "a.ckpt")
    stopping = EarlyStopping()
    with pytest.warns(UserWarning, match="written by Lightning"):
        make(stopping).fit(Net(), ckpt_path="a.ckpt")
    assert stopping.got == [3]
    assert next(iter(load("a.ckpt")["callbacks"])).__name__ == "EarlyStopping"


@pytest.mark.filterwarnings("ignore:.*goes on from the state of")
def test_a_callback_that_cannot_read_a_state_of_lightning_starts_afresh() -> None:
    stopping = EarlyStopping()
    with pytest.warns(UserWarning, match=r"starts afresh, since it cannot read .* \(KeyError: 'wait_count'\)"):
        resumed(version_1(callbacks={"EarlyStopping": {"other": 1}}), stopping)
    assert stopping.got == []


def test_states_are_renamed_and_read_in_our_terms() -> None:
    checkpoint = {
        "pytorch-lightning_version": "0.9.0",
        "state_dict": {},
        "checkpoint_callback_best_model_path": "a.ckpt",
        "checkpoint_callback_best_model_score": 0.5,
        "callbacks": {
            "a.b.EarlyStopping{'monitor': 'x.y'}": {"stopping_reason": 3},
            "EarlyStopping": {"stopping_reason": 77},
            "Outer.Inner": {"a": 1},
            "f.<locals>.Own": {"a": 1},
            "BackboneFinetuning": {"internal_optimizer_metadata": {}},
            datetime.date: {"a": 1},
        },
    }
    assert from_lightning(checkpoint)["callbacks"] == {
        "EarlyStopping{'monitor': 'x.y'}": {"stopping_reason": "patience_exhausted"},
        "EarlyStopping": {"stopping_reason": "not_stopped"},
        "Outer.Inner": {"a": 1},
        "f.<locals>.Own": {"a": 1},
        "BackboneFinetuning": {"internal_optimizer_metadata": {}},
        "date": {"a": 1},
        "ModelCheckpoint": {"best_model_path": "a.ckpt", "best_model_score": 0.5},
    }


@pytest.mark.parametrize("key", ["MixedPrecision", "NativeMixedPrecisionPlugin", "native_amp_scaling_state"])
def test_the_scaler_is_found_under_its_names(key: str) -> None:
    checkpoint = {"pytorch-lightning_version": "1.8.0", "global_step": 1, "optimizer_states": [], key: {"scale": 2.0}}
    assert from_lightning(checkpoint)["precision"] == {"scale": 2.0}


def test_an_evaluation_takes_the_weights_silently() -> None:
    checkpoint = version_1()
    torch.save(checkpoint, "a.ckpt")
    module = Net()
    make().validate(module, ckpt_path="a.ckpt", verbose=False)
    assert torch.equal(module.layer.weight, checkpoint["state_dict"]["layer.weight"])


def test_ours_is_not_taken_for_one_of_lightning() -> None:
    trainer = make(max_epochs=1)
    trainer.fit(Net())
    trainer.save_checkpoint("a.ckpt")
    checkpoint = load("a.ckpt")
    assert "pytorch-lightning_version" in checkpoint
    assert not is_of_lightning(checkpoint)
