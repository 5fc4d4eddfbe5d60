"""Bad input: each mistake gives one clear error, with the culprit's name and the fix, before the first batch if it can.

A row says what is done, which error it gives, and which words the message must hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, IterableDataset

from leyden import Callback, LightningDataModule, LightningModule, MisconfigurationException, Trainer
from leyden.testing import BoringModule, RandomDataset

Error = MisconfigurationException


class Net(BoringModule):
    """Counts the training steps that were begun."""

    begun = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        Net.begun += 1
        return self.answer(batch)

    def answer(self, batch: Tensor) -> Any:
        return self.loss(batch)


@dataclass
class Row:
    """`batches` is how many training steps may have been begun when the mistake shows; 0 where it is known before."""

    what: str
    do: Callable[[], object]
    words: tuple[str, ...]
    error: type[BaseException] = Error
    batches: int = 0


def rows(*table: Row) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", table, ids=[row.what for row in table])


def check(row: Row) -> None:
    Net.begun = 0
    with pytest.raises(row.error) as raised:
        row.do()
    message = str(raised.value)
    assert [word for word in row.words if word not in message] == [], message
    assert Net.begun == row.batches


def trainer(**settings: Any) -> Trainer:
    usual: dict[str, Any] = {"max_epochs": 1, "logger": False, "accelerator": "cpu", "discover_callbacks": False}
    return Trainer(**(usual | settings))


def fit(
    module: Any, train: Any = None, val: Any = None, *, ckpt_path: Any = None, datamodule: Any = None, **settings: Any
) -> None:
    trainer(**settings).fit(module, train, val, datamodule, ckpt_path)


def net(**own: Any) -> Net:
    """A module with methods of its own."""
    made: Net = type("Own", (Net,), own)()
    return made


def callback(**own: Any) -> Callback:
    made: Callback = type("Own", (Callback,), own)()
    return made


# -- callbacks --------------------------------------------------------------------------------------------------------


class Stateful(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"n": 1}


@rows(
    Row("a class", lambda: trainer(callbacks=Callback), ("class Callback", "Callback(...)")),
    Row("a class in a list", lambda: trainer(callbacks=[Stateful]), ("class Stateful", "Stateful(...)")),
    Row("a string", lambda: trainer(callbacks="early"), ("'early'", "a str", "instances of leyden.Callback")),
    Row("a number", lambda: trainer(callbacks=[Callback(), 3]), ("3", "an int", "instances of leyden.Callback")),
    Row("a dict", lambda: trainer(callbacks={"a": Callback()}), ("'a'", "instances of leyden.Callback")),
    Row(
        "a misspelt hook",
        lambda: trainer(callbacks=callback(on_train_batch_ends=lambda *args: None)),
        ("Own.on_train_batch_ends", "'on_train_batch_end'", "Rename"),
    ),
    Row(
        "a hook that takes too much",
        lambda: trainer(callbacks=callback(on_fit_start=lambda self, a, b, c: None)),
        ("Own.on_fit_start", "takes (a, b, c)", "gets (trainer, pl_module)"),
    ),
    Row(
        "a hook that takes too little, by other names",
        lambda: trainer(callbacks=callback(on_train_batch_end=lambda self, x: None)),
        ("Own.on_train_batch_end", "takes (x)", "outputs, batch, batch_idx"),
    ),
    Row(
        "a hook that is not callable",
        lambda: trainer(callbacks=callback(on_fit_start=True)),
        ("Own.on_fit_start", "True", "cannot be called", "Make it a method"),
    ),
    Row(
        "two states under one key",
        lambda: trainer(callbacks=[Stateful(), Stateful()]),
        ("'Stateful'", ".name = ", "_generate_state_key"),
    ),
    Row(
        "the same callback twice",
        lambda: trainer(callbacks=[one := Stateful(), one]),
        ("'Stateful'", "only one of them"),
    ),
    Row("a position that is none", lambda: trainer(callbacks=callback(position="frist")), ("'frist'", "'first'")),
    Row(
        "a cycle",
        lambda: trainer(callbacks=[callback(runs_before=("B",), name="A"), callback(runs_before=("A",), name="B")]),
        ("cycle", "'A'", "'B'", "runs_before"),
    ),
    Row("a misspelt append", lambda: trainer().callbacks.append(Stateful), ("Stateful(...)",)),  # type: ignore[arg-type]
    Row(
        "of the module, a class",
        lambda: fit(net(configure_callbacks=lambda self: [Stateful])),
        ("configure_callbacks", "class Stateful", "Stateful(...)"),
    ),
    Row(
        "of the module, a number",
        lambda: fit(net(configure_callbacks=lambda self: 3)),
        ("configure_callbacks", "3", "instances of leyden.Callback"),
    ),
)
def test_callbacks_that_cannot_work(row: Row) -> None:
    check(row)


# -- the module -------------------------------------------------------------------------------------------------------


class Forgetful(LightningModule):
    def __init__(self) -> None:
        self.rate = 0.1


class ForgetfulWithLayers(LightningModule):
    def __init__(self) -> None:
        self.layer = nn.Linear(1, 1)


class Bare(LightningModule):
    """No step, no optimizer, no data."""


def sgd(module: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.1)


def with_optimizers(make: Callable[[Any], Any]) -> Net:
    return net(configure_optimizers=make)


def plateau(module: Any, **more: Any) -> Any:
    optimizer = sgd(module)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ReduceLROnPlateau(optimizer), **more}}


NAMED = "configure_optimizers"


@rows(
    Row("an nn.Module", lambda: fit(nn.Linear(1, 1)), ("got a Linear", "LightningModule", "Wrap it")),
    Row("the class", lambda: fit(Net), ("Net", "It is the class", "Net(...)")),
    Row("None", lambda: fit(None), ("None", "expected a LightningModule")),
    Row("the data first", lambda: fit(LightningDataModule(), Net()), ("LightningDataModule", "model comes first")),
    Row("no super().__init__()", lambda: fit(Forgetful()), ("Forgetful.__init__", "super().__init__()")),
    Row("layers before super().__init__()", ForgetfulWithLayers, ("ForgetfulWithLayers", "super().__init__()")),
    Row("no training_step", lambda: fit(Bare(), [1]), ("Bare has no training_step", "def training_step(self, batch")),
    Row("no validation_step", lambda: trainer().validate(Bare(), [1]), ("Bare has no validation_step",)),
    Row("no test_step", lambda: trainer().test(Bare(), [1]), ("Bare has no test_step", "def test_step(self, batch")),
    Row(
        "no configure_optimizers",
        lambda: fit(type("Half", (LightningModule,), {"training_step": lambda self, batch: None})(), [1]),
        ("Half has no configure_optimizers", "torch.optim.SGD"),
    ),
    Row(
        "a misspelt hook",
        lambda: fit(net(on_train_epoch_ended=lambda self: None)),
        ("Own.on_train_epoch_ended", "'on_train_epoch_end'"),
    ),
    Row(
        "a hook that takes too much",
        lambda: fit(net(on_train_start=lambda self, trainer: None)),
        ("Own.on_train_start", "takes (trainer)", "gets ()"),
    ),
    Row("a hook not callable", lambda: fit(net(on_fit_start=3)), ("Own.on_fit_start is 3", "cannot be called")),
    Row("a step not callable", lambda: fit(net(training_step=3)), ("Own.training_step is 3", "cannot be called")),
    Row(
        "a step that takes too much",
        lambda: fit(net(training_step=lambda self, batch, batch_idx, third, fourth: None)),
        ("Own.training_step", "fourth", "batch, batch_idx"),
    ),
    Row(
        "a 1.x epoch end",
        lambda: fit(net(validation_epoch_end=lambda self, outputs: None)),
        ("Own.validation_epoch_end", "on_validation_epoch_end"),
    ),
    Row(
        "manual optimisation with clipping",
        lambda: fit(net(automatic_optimization=False), gradient_clip_val=1.0),
        ("gradient_clip_val=1.0", "automatic_optimization = False", "self.clip_gradients"),
    ),
    Row(
        "manual optimisation with accumulation",
        lambda: fit(net(automatic_optimization=False), accumulate_grad_batches=2),
        ("accumulate_grad_batches=2", "automatic_optimization = False"),
    ),
)  # fmt: skip
def test_modules_that_cannot_be_run(row: Row) -> None:
    check(row)


@rows(
    Row("a string", lambda: fit(with_optimizers(lambda self: "sgd")), (NAMED, "'sgd' (str)", "an Optimizer")),
    Row("a class", lambda: fit(with_optimizers(lambda self: torch.optim.SGD)), (NAMED, "SGD", "Expected an Optimizer")),
    Row("a number in a list", lambda: fit(with_optimizers(lambda self: [sgd(self), 3])), (NAMED, "3 (int)")),
    Row(
        "a scheduler alone",
        lambda: fit(with_optimizers(lambda self: StepLR(sgd(self), 1))),
        (NAMED, "StepLR without its optimizer", "([optimizer], [scheduler])"),
    ),
    Row(
        "a scheduler among optimizers",
        lambda: fit(with_optimizers(lambda self: [one := sgd(self), StepLR(one, 1)])),
        (NAMED, "StepLR stands among the optimizers", "([optimizer], [scheduler])"),
    ),
    Row(
        "a scheduler of another optimizer",
        lambda: fit(with_optimizers(lambda self: ([sgd(self)], [StepLR(sgd(self), 1)]))),
        (NAMED, "StepLR belongs to an optimizer that was not returned"),
    ),
    Row(
        "a dict without optimizer",
        lambda: fit(with_optimizers(lambda self: {"lr_scheduler": StepLR(sgd(self), 1)})),
        (NAMED, "without the key 'optimizer'"),
    ),
    Row(
        "a misspelt key",
        lambda: fit(with_optimizers(lambda self: {"optimizer": sgd(self), "lr_schedulers": []})),
        (NAMED, "'lr_schedulers'", "Did you mean 'lr_scheduler'?"),
    ),
    Row("no monitor", lambda: fit(with_optimizers(plateau)), (NAMED, "ReduceLROnPlateau", '"monitor"')),
    Row(
        "an interval that is none",
        lambda: fit(with_optimizers(lambda self: plateau(self, monitor="loss", interval="batch"))),
        (NAMED, "'batch'", "'epoch' or 'step'"),
    ),
    Row(
        "a frequency of zero",
        lambda: fit(with_optimizers(lambda self: plateau(self, monitor="loss", frequency=0))),
        (NAMED, "frequency is 0", "int >= 1"),
    ),
    Row(
        "a monitored value that is never logged",
        lambda: fit(with_optimizers(lambda self: plateau(self, monitor="val_los"))),
        (NAMED, "'val_los'", "Did you mean 'val_loss'?"),
        batches=2,
    ),
    Row("two", lambda: fit(with_optimizers(lambda self: [sgd(self)] * 2)), ("2 optimizers", "automatic_optimization")),
    Row(
        "LBFGS under 16-mixed",
        lambda: fit(with_optimizers(lambda self: torch.optim.LBFGS(self.parameters())), precision="16-mixed"),
        ("LBFGS", "16-mixed", "bf16-mixed"),
    ),
    Row(
        "LBFGS over accumulated batches",
        lambda: fit(with_optimizers(lambda self: torch.optim.LBFGS(self.parameters())), accumulate_grad_batches=2),
        ("LBFGS", "accumulate_grad_batches=2", "larger batches"),
    ),
)  # fmt: skip
def test_configure_optimizers_that_returns_nonsense(row: Row) -> None:
    check(row)


def answers(value: Callable[[Any, Tensor], Any], **settings: Any) -> Callable[[], None]:
    return lambda: fit(net(answer=value), **settings)


@rows(
    Row("text", answers(lambda self, batch: "loss"), ("Own.training_step", "'loss' (str)", "as a tensor"), batches=1),
    Row("a float", answers(lambda self, batch: 0.5), ("Own.training_step", "0.5 (float)", "tensor"), batches=1),
    Row("a tuple", answers(lambda self, batch: (self.loss(batch), 1)), ("Own.training_step", "(tuple)"), batches=1),
    Row("a dict without loss", answers(lambda self, batch: {"los": 1}), ("_step", "'los'", "'loss'"), batches=1),
    Row("a dict with a float", answers(lambda self, batch: {"loss": 1.0}), ("'loss' is a float", "tensor"), batches=1),
    Row(
        "a detached loss",
        answers(lambda self, batch: self.loss(batch).detach()),
        ("Own.training_step", "without a gradient", "detached", "frozen"),
        batches=1,
    ),
    Row(
        "a loss of several numbers",
        answers(lambda self, batch: self(batch)),
        ("Own.training_step", "shape (2, 2)", "loss.mean()"),
        batches=1,
    ),
    Row(
        "a NaN under detect_anomaly",
        answers(lambda self, batch: self.loss(batch) * math.nan, detect_anomaly=True),
        ("Own.training_step", "nan", "batch 0", "detect_anomaly"),
        batches=1,
    ),
    Row(
        "a string from validation_step",
        lambda: fit(net(validation_step=lambda self, batch: "fine")),
        ("Own.validation_step", "'fine' (str)"),
    ),
)  # fmt: skip
def test_steps_that_return_nonsense(row: Row) -> None:
    check(row)


# -- the data ---------------------------------------------------------------------------------------------------------


class Unsized(IterableDataset[Tensor]):
    def __init__(self, batches: int = 3) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        return iter([torch.ones(4)] * self.batches)


class Data(LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()


class NoData(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        Net.begun += 1
        return self.layer(batch).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return sgd(self)


def loader(length: int = 4) -> DataLoader[Tensor]:
    return DataLoader(RandomDataset(4, length), batch_size=2)


TRAIN, VAL = "train_dataloader", "val_dataloader"


@rows(
    Row("no training data", lambda: fit(NoData()), (f"no {TRAIN}", "train_dataloaders=loader", "NoData")),
    Row("no validation data", lambda: trainer().validate(NoData()), (f"no {VAL}", "dataloaders=loader")),
    Row("no test data", lambda: trainer().test(NoData()), ("no test_dataloader", "dataloaders=loader")),
    Row("no data to predict", lambda: trainer().predict(NoData()), ("no predict_dataloader", "dataloaders=loader")),
    Row("the hook gives None", lambda: fit(net(train_dataloader=lambda self: None)), (TRAIN, "None", "Return")),
    Row("empty", lambda: fit(NoData(), loader(0)), (TRAIN, "DataLoader without a single batch", "drop_last")),
    Row("an empty list", lambda: fit(NoData(), []), (TRAIN, "list without a single batch")),
    Row("empty, of unknown length", lambda: fit(NoData(), DataLoader(Unsized(0))), (TRAIN, "without a single batch")),
    Row("an empty validation", lambda: fit(NoData(), loader(), loader(0)), (VAL, "without a single batch", "limit_")),
    Row("a dataset", lambda: fit(NoData(), RandomDataset(4, 4)), (TRAIN, "wrap it", "DataLoader(dataset")),
    Row("a number", lambda: fit(NoData(), 3), (TRAIN, "3", "DataLoader")),
    Row("a string", lambda: fit(NoData(), "mnist"), (TRAIN, "mnist", "DataLoader")),
    Row("the hook itself", lambda: fit(NoData(), Net().train_dataloader), (TRAIN, "It is a function: call it")),
    Row("a datamodule's class", lambda: fit(NoData(), datamodule=Data), ("datamodule=", "Data", "class", "Data(...)")),
    Row("a loader as datamodule", lambda: fit(NoData(), datamodule=loader()), ("datamodule=", "LightningDataModule")),
    Row("a datamodule twice", lambda: fit(NoData(), Data(), datamodule=Data()), ("datamodule was given twice", "once")),
    Row("loaders and a datamodule", lambda: fit(NoData(), loader(), datamodule=Data()), (TRAIN, "one of them")),
    Row(
        "a validation interval beyond the epoch",
        lambda: fit(Net(), val_check_interval=10),
        ("val_check_interval=10", "only 2 training batches", "check_val_every_n_epoch=None"),
    ),
    Row(
        "a fraction of an unknown length",
        lambda: fit(NoData(), DataLoader(Unsized()), loader(), val_check_interval=0.5),
        ("val_check_interval=0.5", "known length", "number of batches"),
    ),
    Row(
        "a limit as a fraction of an unknown length",
        lambda: fit(NoData(), DataLoader(Unsized()), limit_train_batches=0.5),
        ("limit_train_batches=0.5", "number of batches"),
    ),
    Row(
        "a limit that leaves nothing",
        lambda: fit(Net(), limit_train_batches=0.1),
        ("limit_train_batches=0.1", "2", "batch"),
    ),
    Row(
        "several loaders, no dataloader_idx",
        lambda: fit(NoData(), loader(), [loader(), loader()]),
        ("NoData.validation_step", "dataloader_idx", "several dataloaders", "dataloader_idx=0"),
    ),
)  # fmt: skip
def test_data_that_cannot_be_read(row: Row) -> None:
    check(row)


# -- what is logged, and when the trainer is asked --------------------------------------------------------------------


def logs(*args: Any, **options: Any) -> Callable[[], None]:
    return lambda: fit(net(answer=lambda self, batch: self.log(*args, **options)))


@rows(
    Row("a string", logs("loss", "high"), ("'loss'", "str: 'high'", "a number"), ValueError, batches=1),
    Row("a vector", logs("loss", torch.ones(2)), ("'loss'", "(2,)", "value.mean()"), ValueError, batches=1),
    Row("no name", logs(3, 1.0), ("3",), batches=1),
    Row("no reduction", logs("loss", 1.0, on_epoch=True, reduce_fx="median"), ("'median'", "'mean'"), batches=1),
    Row(
        "where nothing can be reduced",
        lambda: fit(net(on_fit_start=lambda self: self.log("loss", 1.0))),
        ("'loss'", "on_fit_start"),
    ),
)  # fmt: skip
def test_logging_what_cannot_be_logged(row: Row) -> None:
    check(row)


@rows(
    Row("validate, no model yet", lambda: trainer().validate(), ("Trainer.validate()", "pass model=")),
    Row("predict, no model yet", lambda: trainer().predict(), ("Trainer.predict()", "pass model=")),
    Row("save, no model yet", lambda: trainer().save_checkpoint("a.ckpt"), ("save_checkpoint", "no model yet")),
    Row("the module, none yet", lambda: trainer().lightning_module, ("no module yet", "call fit"), AttributeError),
    Row("the trainer, none yet", lambda: Net().trainer, ("Net is not attached to a Trainer",), RuntimeError),
    Row("max_time that is none", lambda: trainer(max_time="soon"), ("soon", "DD:HH:MM:SS")),
    Row("max_time below zero", lambda: trainer(max_time=timedelta(-1)), ("-1",)),
    Row("no checkpoint callback", lambda: fit(Net(), ckpt_path="best"), ("ckpt_path='best'", "ModelCheckpoint", "pip")),
    Row("no last checkpoint", lambda: fit(Net(), ckpt_path="last"), ("ckpt_path='last'", "ModelCheckpoint")),
    Row("no cluster's checkpoint", lambda: fit(Net(), ckpt_path="hpc"), ("ckpt_path='hpc'", "hpc_ckpt_N.ckpt")),
    Row("a path that is none", lambda: fit(Net(), ckpt_path=3), ("ckpt_path=3", "'best', 'last', 'auto'")),
    Row("no such file", lambda: fit(Net(), ckpt_path="a.ckpt"), ("a.ckpt", "no such file"), FileNotFoundError),
    Row("a folder", lambda: fit(Net(), ckpt_path="."), ("ckpt_path='.'", "is a folder", "the one inside it")),
)  # fmt: skip
def test_what_is_asked_before_it_is_there(row: Row) -> None:
    check(row)


# -- checkpoints ------------------------------------------------------------------------------------------------------


def resume(
    module: LightningModule | None = None, *, fn: str = "fit", save: Any = None, weights_only: bool = False
) -> None:
    """Save a run of `Net`, or the object `save`, and give the file to an entry point as `ckpt_path`."""
    if save is None:
        before = trainer()
        before.fit(Net())
        before.save_checkpoint("a.ckpt", weights_only=weights_only)
    else:
        torch.save(save, "a.ckpt")
    Net.begun = 0
    getattr(trainer(max_epochs=2), fn)(module or Net(), ckpt_path="a.ckpt")


class Wider(Net):
    def __init__(self) -> None:
        super().__init__(out_features=3)


class Deeper(Net):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(2, 2)


def adam(module: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters())


def scheduled(module: Any) -> Any:
    return [one := sgd(module)], [StepLR(one, 1)]


@rows(
    Row("weights only, to fit", lambda: resume(weights_only=True), ("a.ckpt", "weights only", "load_from_checkpoint")),
    Row("of another model, a size", lambda: resume(Wider()), ("a.ckpt", "Wider", "layer.weight", "another model")),
    Row("of another model, a layer", lambda: resume(Deeper()), ("a.ckpt", "Deeper", "more.weight", "strict_loading")),
    Row("of another model, to test", lambda: resume(Wider(), fn="test"), ("a.ckpt", "Wider", "layer.weight")),
    Row("of another optimizer", lambda: resume(with_optimizers(adam)), ("a.ckpt", "than Adam", "betas", "same")),
    Row(
        "of fewer schedulers",
        lambda: resume(with_optimizers(scheduled)),
        ("0 lr_scheduler state(s)", "configure_optimizers gave 1", "the same"),
    ),
    Row("bare weights, to fit", lambda: resume(save=Net().state_dict()), ("no checkpoint", "load_state_dict")),
    Row("bare weights, to predict", lambda: resume(fn="predict", save=Net().state_dict()), ("'state_dict'", "layer.")),
    Row("a tensor", lambda: resume(save=torch.ones(1)), ("a.ckpt", "no checkpoint of a training", "a Tensor")),
    Row("a list, to test", lambda: resume(fn="test", save=[1]), ("a.ckpt", "no checkpoint of a training", "a list")),
    Row(
        "of Lightning, weights only",
        lambda: resume(save={"pytorch-lightning_version": "2.6.0", "state_dict": {}, "loops": {}, "global_step": 1}),
        ("a.ckpt", "weights only", "Net.load_from_checkpoint"),
    ),
    Row(
        "of other loops",
        lambda: resume(
            save={"state_dict": Net().state_dict(), "global_step": 1, "loops": {"fit": 1}, "optimizer_states": []}
        ),
        ("a.ckpt", "progress cannot be read", "'fit_loop'", "load_from_checkpoint"),
    ),
)  # fmt: skip
def test_checkpoints_that_do_not_fit(row: Row) -> None:
    check(row)
