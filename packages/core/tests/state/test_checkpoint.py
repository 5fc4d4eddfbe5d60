"""What a checkpoint holds, and that a run taken up from it goes on as if nothing had been."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningDataModule, LightningModule, MisconfigurationException, Trainer
from leyden.callback import LambdaCallback
from leyden.state.checkpoint import dump
from leyden.state.storage import load
from leyden.testing import BoringModule


class Net(BoringModule):
    """Adam, a schedule by epochs, dropout, so that every part of the state matters."""

    def __init__(self, rate: float = 0.05) -> None:
        super().__init__(batches={"train": 3})
        self.save_hyperparameters()
        self.dropout = torch.nn.Dropout(0.3)

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.dropout(self.layer(batch))
        return output

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.rate)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)]


class Counter(Callback):
    def __init__(self, count: int = 0) -> None:
        self.count = count
        self.loaded: list[Any] = []

    def on_train_batch_end(self) -> None:  # type: ignore[override]
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loaded.append(dict(state_dict))
        self.count = state_dict["count"]


def make(*callbacks: Callback, max_epochs: int = 1, **settings: Any) -> Trainer:
    return Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        discover_callbacks=False,
        callbacks=callbacks,
        **settings,
    )


def fitted(*callbacks: Callback, module: Callable[[], LightningModule] | None = None, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    trainer = make(*callbacks, **settings)
    trainer.fit((module or Net)())
    return trainer


def everything(trainer: Trainer) -> dict[str, Any]:
    """The whole state of a run, but for what a resumed one need not share."""
    trainer.save_checkpoint("everything.ckpt")
    checkpoint: dict[str, Any] = load("everything.ckpt")
    return checkpoint


def assert_same(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, Mapping):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{where}/{index}")
    elif isinstance(a, Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_resumed_at_the_end_of_an_epoch_equals_one_without_interruption(stop: int) -> None:
    whole = fitted(Counter(), max_epochs=4)
    fitted(Counter(), max_epochs=stop).save_checkpoint("a.ckpt")
    torch.manual_seed(99)
    resumed = make(Counter(), max_epochs=4)
    resumed.fit(Net(), ckpt_path="a.ckpt")
    assert (resumed.global_step, resumed.current_epoch) == (12, 4)
    assert_same(everything(resumed), everything(whole))


def test_a_checkpoint_holds_the_run_as_a_safe_load_reads_it() -> None:
    checkpoint = everything(fitted(Counter()))
    assert sorted(checkpoint) == [
        "callback_versions", "callbacks", "epoch", "format_version", "global_step", "gradients", "hparams_name",
        "hyper_parameters", "leyden_version", "loggers", "loops", "lr_schedulers", "metrics", "optimizer_states",
        "precision", "pytorch-lightning_version", "rng", "state_dict",
    ]  # fmt: skip
    assert checkpoint["callbacks"] == {"Counter": {"count": 3}}
    assert checkpoint["callback_versions"] == {"Counter": 1}
    assert checkpoint["hyper_parameters"] == {"rate": 0.05}
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 3)
    assert len(checkpoint["optimizer_states"]) == len(checkpoint["lr_schedulers"]) == 1


def test_weights_only_holds_weights_hyperparameters_and_counters() -> None:
    fitted(Counter()).save_checkpoint("a.ckpt", weights_only=True)
    checkpoint = load("a.ckpt")
    assert sorted(checkpoint) == [
        "epoch", "format_version", "global_step", "hparams_name", "hyper_parameters", "leyden_version",
        "pytorch-lightning_version", "state_dict",
    ]  # fmt: skip
    assert Net.load_from_checkpoint("a.ckpt").hparams == {"rate": 0.05}


class Halves(Callback):
    """Saves half of each weight."""

    def __init__(self, says_so: bool) -> None:
        self.changes_saved_weights = says_so

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {name: value / 2 for name, value in checkpoint["state_dict"].items()}


def test_a_callback_may_say_which_weights_are_saved_without_the_run_too() -> None:
    for says_so in (True, False):
        module = BoringModule()
        trainer = Trainer(
            max_epochs=1, logger=False, discover_callbacks=False, accelerator="cpu", callbacks=[Halves(says_so)]
        )
        trainer.fit(module)
        for weights_only, halved in ((False, True), (True, says_so)):
            saved = dump(trainer, weights_only)["state_dict"]["layer.weight"]
            assert torch.equal(saved, module.layer.weight.detach() / (2 if halved else 1))


@pytest.mark.parametrize("fn", ["validate", "test", "predict"])
def test_an_evaluation_takes_weights_and_callback_states_but_no_progress(fn: str) -> None:
    trained = fitted(Counter(), LambdaCallback(state_dict=lambda: {"of": "another"}))
    trained.save_checkpoint("a.ckpt")
    counter, seen = Counter(), list[str]()
    sees = LambdaCallback(on_load_checkpoint=lambda trainer, module, checkpoint: seen.append(str(trainer.state.fn)))
    trainer, module = make(counter, sees), Net()
    getattr(trainer, fn)(module, ckpt_path="a.ckpt")
    assert torch.equal(module.layer.weight, trained.lightning_module.layer.weight)  # type: ignore[union-attr,arg-type]
    assert (counter.loaded, seen) == ([{"count": 3}], [fn])
    assert (trainer.global_step, trainer.current_epoch, trainer.ckpt_path) == (0, 0, "a.ckpt")


def test_states_that_no_callback_takes_are_named_when_fit_goes_on() -> None:
    fitted(Counter(), LambdaCallback(state_dict=lambda: {"x": 1})).save_checkpoint("a.ckpt")
    trainer = make(max_epochs=2)
    with pytest.warns(UserWarning, match=r"does not have: Counter, LambdaCallback\. Add them to Trainer\(callbacks"):
        trainer.fit(Net(), ckpt_path="a.ckpt")


def test_a_callback_without_state_in_the_checkpoint_starts_afresh_silently() -> None:
    fitted().save_checkpoint("a.ckpt")
    counter = Counter()
    make(counter, max_epochs=2).fit(Net(), ckpt_path="a.ckpt")
    assert (counter.loaded, counter.count) == ([], 3)


VALUES: dict[str, Any] = {
    "path": Path("runs/1"),
    "at": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
    "for": datetime.timedelta(hours=1),
    "scores": np.arange(3.0),
    "best": np.float32(0.25),
    "tensor": torch.arange(3),
    "nested": [{"a": (1, None, {"b"})}],
}


def test_states_of_every_plain_kind_come_back() -> None:
    callback = LambdaCallback(state_dict=lambda: VALUES)
    fitted(callback).save_checkpoint("a.ckpt")
    given: list[dict[str, Any]] = []
    make(LambdaCallback(load_state_dict=given.append), max_epochs=2).fit(Net(), ckpt_path="a.ckpt")
    assert str(given) == str([VALUES])


def test_hyperparameters_of_every_plain_kind_come_back() -> None:
    class Configured(Net):
        def __init__(self, config: dict[str, Any], rate: float = 0.1) -> None:
            super().__init__(rate)
            self.save_hyperparameters()

    fitted(module=lambda: Configured(VALUES)).save_checkpoint("a.ckpt")
    assert str(Configured.load_from_checkpoint("a.ckpt").hparams["config"]) == str(VALUES)


def test_a_state_that_is_not_plain_is_refused_when_it_is_saved_and_nothing_is_written() -> None:
    trainer = fitted(LambdaCallback(state_dict=lambda: {"best": [object()]}))
    message = r"the state of the callback LambdaCallback: state_dict\(\)\['best'\]\[0\] is an object"
    with pytest.raises(MisconfigurationException, match=message):
        trainer.save_checkpoint("a.ckpt")
    assert not Path("a.ckpt").exists()


@pytest.mark.filterwarnings("ignore:.*the signature of 1:DeprecationWarning")
def test_what_older_callbacks_return_when_saving_is_their_state() -> None:
    class Older(Callback):
        def __init__(self) -> None:
            self.count, self.got = 0, list[Any]()

        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule) -> Any:  # type: ignore[override]
            return {"count": 7}

        def on_load_checkpoint(self, callback_state: Any) -> None:  # type: ignore[override]
            self.got.append(callback_state)

    class Mixed(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"from": "state_dict"}

        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> Any:
            checkpoint["extra"] = 1
            return {"from": "on_save_checkpoint"}

    trainer = fitted(Older(), Mixed())
    checkpoint = everything(trainer)
    assert checkpoint["callbacks"] == {
        "test_what_older_callbacks_return_when_saving_is_their_state.<locals>.Older": {"count": 7},
        "test_what_older_callbacks_return_when_saving_is_their_state.<locals>.Mixed": {"from": "state_dict"},
    }
    assert checkpoint["extra"] == 1
    older = Older()
    make(older, Mixed(), max_epochs=2).fit(Net(), ckpt_path="everything.ckpt")
    assert older.got == [{"count": 7}]


class Data(LightningDataModule):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.seen = 0
        self.calls: list[str] = []

    def train_dataloader(self) -> Any:
        return Net().train_dataloader()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen + 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["by_data"] = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.calls.append(f"on_load_checkpoint {checkpoint['by_data']}")


def test_a_datamodule_keeps_hyperparameters_state_and_what_its_hooks_add() -> None:
    trainer = make()
    trainer.fit(Net(), datamodule=Data())
    trainer.save_checkpoint("a.ckpt")
    checkpoint = load("a.ckpt")
    assert (checkpoint["datamodule_hyper_parameters"], checkpoint["Data"]) == ({"size": 3}, {"seen": 1})
    data = Data()
    make(max_epochs=2).fit(Net(), datamodule=data, ckpt_path="a.ckpt")
    assert (data.seen, data.calls) == (1, ["on_load_checkpoint True"])


def test_the_modules_hooks_change_and_see_the_checkpoint() -> None:
    class Versioned(Net):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["state_dict"] = {f"v1.{name}": value for name, value in checkpoint["state_dict"].items()}

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            weights = checkpoint["state_dict"]
            checkpoint["state_dict"] = {name.removeprefix("v1."): value for name, value in weights.items()}

    trainer = fitted(module=Versioned)
    trainer.save_checkpoint("a.ckpt")
    assert sorted(load("a.ckpt")["state_dict"]) == ["v1.layer.bias", "v1.layer.weight"]
    module = Versioned()
    make().validate(module, ckpt_path="a.ckpt", verbose=False)
    assert torch.equal(module.layer.weight, trainer.lightning_module.layer.weight)  # type: ignore[union-attr,arg-type]


def test_without_strict_loading_weights_that_are_missing_or_new_are_passed_over() -> None:
    class Deeper(Net):
        def __init__(self) -> None:
            super().__init__()
            self.more = torch.nn.Linear(2, 2)
            self.strict_loading = False

    trainer = fitted()
    trainer.save_checkpoint("a.ckpt")
    module = Deeper()
    make().validate(module, ckpt_path="a.ckpt", verbose=False)
    assert torch.equal(module.layer.weight, trainer.lightning_module.layer.weight)  # type: ignore[union-attr,arg-type]


SCHEDULERS = [
    ("StepLR", (1,)), ("MultiStepLR", ([1, 2],)), ("ConstantLR", ()), ("LinearLR", ()), ("ExponentialLR", (0.9,)),
    ("CosineAnnealingLR", (5,)), ("PolynomialLR", ()), ("CosineAnnealingWarmRestarts", (2,)), ("OneCycleLR", (0.1, 9)),
    ("CyclicLR", (0.01, 0.1)), ("LambdaLR", (lambda epoch: 0.9**epoch,)), ("MultiplicativeLR", (lambda epoch: 0.9,)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args"), SCHEDULERS, ids=[name for name, _ in SCHEDULERS])
def test_every_scheduler_of_torch_resumes(name: str, args: tuple[Any, ...]) -> None:
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
            return [optimizer], [getattr(torch.optim.lr_scheduler, name)(optimizer, *args)]

    whole = fitted(module=Scheduled, max_epochs=3)
    fitted(module=Scheduled, max_epochs=1).save_checkpoint("a.ckpt")
    resumed = make(max_epochs=3)
    resumed.fit(Scheduled(), ckpt_path="a.ckpt")
    assert_same(everything(resumed), everything(whole))


def test_a_sequence_of_schedulers_and_a_plateau_resume() -> None:
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            lr = torch.optim.lr_scheduler
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
            chained = lr.SequentialLR(optimizer, [lr.LinearLR(optimizer), lr.StepLR(optimizer, 1)], milestones=[1])
            plateau = {"scheduler": lr.ReduceLROnPlateau(optimizer, patience=0), "monitor": "val_loss"}
            return [optimizer], [chained, plateau]

    whole = fitted(module=Scheduled, max_epochs=3)
    fitted(module=Scheduled, max_epochs=1).save_checkpoint("a.ckpt")
    resumed = make(max_epochs=3)
    resumed.fit(Scheduled(), ckpt_path="a.ckpt")
    assert_same(everything(resumed), everything(whole))


@pytest.mark.parametrize("name", ["Adadelta", "Adagrad", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true"])
def test_every_optimizer_of_torch_resumes(name: str, precision: str) -> None:
    class Optimized(Net):
        def configure_optimizers(self) -> Any:
            return getattr(torch.optim, name)(self.parameters(), lr=0.01)

    whole = fitted(module=Optimized, max_epochs=2, precision=precision)
    fitted(module=Optimized, max_epochs=1, precision=precision).save_checkpoint("a.ckpt")
    resumed = make(max_epochs=2, precision=precision)
    resumed.fit(Optimized(), ckpt_path="a.ckpt")
    assert_same(everything(resumed), everything(whole))


JUNK = [None, "x", -5, 7, torch.zeros(2), {1: 2}, [1, 2]]
PLACES: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "progress": lambda checkpoint, junk: checkpoint["loops"].update(fit_loop=junk),
    "loops": lambda checkpoint, junk: checkpoint.update(loops=junk),
    "all optimizers": lambda checkpoint, junk: checkpoint.update(optimizer_states=junk),
    "an optimizer": lambda checkpoint, junk: checkpoint.update(optimizer_states=[junk]),
    "an optimizer's state": lambda checkpoint, junk: checkpoint["optimizer_states"][0].update(state=junk),
    "all schedulers": lambda checkpoint, junk: checkpoint.update(lr_schedulers=junk),
    "weights": lambda checkpoint, junk: checkpoint.update(state_dict=junk),
    "a weight": lambda checkpoint, junk: checkpoint["state_dict"].update({"layer.weight": junk}),
}


@pytest.mark.parametrize("place", PLACES)
def test_parts_of_another_kind_are_one_error_that_names_the_file(place: str) -> None:
    fitted().save_checkpoint("whole.ckpt")
    for junk in JUNK:
        checkpoint = load("whole.ckpt")
        PLACES[place](checkpoint, junk)
        torch.save(checkpoint, "a.ckpt")
        with pytest.raises(MisconfigurationException, match=r"^ckpt_path='a\.ckpt'"):
            make(max_epochs=2).fit(Net(), ckpt_path="a.ckpt")
