"""Around an entry point: set up, prepared, torn down and closed, in this order, whatever happens in between."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningDataModule, LightningModule, MisconfigurationException, Trainer
from leyden.callback import LambdaCallback
from leyden.loggers import Logger
from leyden.testing import BoringModule


class Ends(Logger):
    """Writes down how it was closed."""

    def __init__(self, events: list[str], fails: BaseException | None = None) -> None:
        super().__init__()
        self.events, self.fails = events, fails

    name = "ends"
    version = 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def finalize(self, status: str) -> None:
        self.events.append(f"finalize {status}")
        if self.fails is not None:
            raise self.fails


class Data(LightningDataModule):
    """The module's data, with events of its own."""

    def __init__(self, events: list[str], fails_in: str = "") -> None:
        super().__init__()
        self.events, self.fails_in = events, fails_in

    def _event(self, name: str) -> None:
        self.events.append(f"data.{name}")
        if name == self.fails_in:
            raise ValueError(f"data.{name}")

    def prepare_data(self) -> None:
        self._event("prepare_data")

    def setup(self, stage: str) -> None:
        self._event("setup")

    def teardown(self, stage: str) -> None:
        self._event("teardown")

    def on_exception(self, exception: BaseException) -> None:
        self._event("on_exception")

    def train_dataloader(self) -> Any:
        self._event("train_dataloader")
        return BoringModule().train_dataloader()

    def val_dataloader(self) -> Any:
        self._event("val_dataloader")
        return BoringModule().val_dataloader()


class Events(Callback):
    def __init__(self, events: list[str], **fails: BaseException) -> None:
        self.events, self.fails = events, fails

    def _event(self, name: str) -> None:
        self.events.append(name)
        if name in self.fails:
            raise self.fails[name]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._event("setup")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._event("on_exception")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._event("teardown")


def make(*callbacks: Callback, logger: Any = False, **settings: Any) -> Trainer:
    return Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, discover_callbacks=False, callbacks=callbacks, **settings
    )


def raises(error: BaseException) -> Callable[..., Any]:
    def method(*args: Any, **kwargs: Any) -> Any:
        raise error

    return method


def test_a_good_run_tears_down_and_closes_the_loggers_last() -> None:
    events: list[str] = []
    trainer = make(Events(events), logger=Ends(events))
    trainer.fit(BoringModule(), datamodule=Data(events))
    assert events == [
        "data.prepare_data", "data.setup", "setup", "data.val_dataloader", "data.train_dataloader",
        "data.teardown", "teardown", "finalize success",
    ]  # fmt: skip
    assert (trainer.state.status, trainer.state.stage, trainer.interrupted) == ("finished", None, False)


@pytest.mark.parametrize("fn", ["fit", "validate", "test", "predict"])
def test_a_failing_run_tells_everyone_then_closes_then_tears_down(fn: str) -> None:
    events: list[str] = []
    error = ValueError("by intent")
    step = {"fit": "training_step", "validate": "validation_step"}.get(fn, f"{fn}_step")
    module = BoringModule()
    setattr(module, step, lambda batch, batch_idx: raises(error)())
    trainer = make(Events(events), logger=Ends(events), num_sanity_val_steps=0)
    with pytest.raises(ValueError, match="by intent") as raised:
        getattr(trainer, fn)(module)
    assert raised.value is error
    assert not hasattr(error, "__notes__")
    assert events == ["setup", "on_exception", "finalize failed", "teardown"]
    assert (trainer.state.status, trainer.state.stage, trainer.interrupted) == ("interrupted", None, True)


FAILING_HOOKS = [
    "configure_callbacks", "prepare_data", "setup", "configure_model", "configure_optimizers", "train_dataloader",
    "val_dataloader", "on_fit_start", "on_train_start", "on_validation_epoch_end", "on_train_epoch_end", "on_fit_end",
    "transfer_batch_to_device", "backward", "optimizer_step", "lr_scheduler_step", "configure_gradient_clipping",
]  # fmt: skip


@pytest.mark.parametrize("hook", FAILING_HOOKS)
def test_an_error_in_any_hook_of_the_module_comes_out_as_it_was(hook: str) -> None:
    class Net(BoringModule):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    events: list[str] = []
    error = RuntimeError(f"in {hook}")
    module = type("Failing", (Net,), {hook: lambda self, *args, **kwargs: raises(error)()})()
    trainer = make(Events(events), logger=Ends(events))
    with pytest.raises(RuntimeError, match=f"in {hook}") as raised:
        trainer.fit(module)
    assert raised.value is error
    was_set_up = hook not in ("configure_callbacks", "prepare_data")
    assert events == [
        *(["setup"] if was_set_up else []), "on_exception", "finalize failed", *(["teardown"] if was_set_up else [])
    ]  # fmt: skip
    trainer.fit(BoringModule())
    assert not trainer.interrupted


@pytest.mark.parametrize("hook", ["prepare_data", "setup", "train_dataloader", "val_dataloader"])
def test_an_error_in_any_hook_of_the_datamodule_comes_out_and_its_teardown_follows_its_setup(hook: str) -> None:
    events: list[str] = []
    trainer = make(logger=Ends(events))
    with pytest.raises(ValueError, match=rf"data\.{hook}"):
        trainer.fit(BoringModule(), datamodule=Data(events, fails_in=hook))
    after = ["data.on_exception", "finalize failed", "data.teardown"]
    assert events[events.index(f"data.{hook}") + 1 :] == (after if "dataloader" in hook else after[:2])


def test_an_error_of_a_dataloader_comes_out() -> None:
    def batches() -> Any:
        yield torch.ones(2, 4)
        raise OSError("the disk is gone")

    class Once:
        def __iter__(self) -> Any:
            return batches()

    events: list[str] = []
    with pytest.raises(OSError, match="the disk is gone"):
        make(Events(events), limit_val_batches=0).fit(BoringModule(), Once())
    assert events == ["setup", "on_exception", "teardown"]


def test_no_error_at_the_end_hides_the_first_or_keeps_the_others_from_their_calls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[str] = []
    problems = {"on_exception": RuntimeError("second"), "teardown": KeyboardInterrupt("fourth")}
    first, other = Ends(events, fails=OSError("third")), Ends(events)
    data = Data(events, fails_in="on_exception")
    trainer = make(Events(events, **problems), Events(events), logger=[first, other])
    module = BoringModule()
    module.training_step = raises(ValueError("first"))  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR, "leyden"), pytest.raises(ValueError, match="first") as raised:
        trainer.fit(module, datamodule=data)
    assert events[events.index("on_exception") :] == [
        "on_exception", "on_exception", "data.on_exception", "finalize failed", "finalize failed",
        "data.teardown", "teardown", "teardown",
    ]  # fmt: skip
    assert raised.value.__notes__ == [
        "While this was handled, Events.on_exception raised RuntimeError: second",
        "While this was handled, Data.on_exception raised ValueError: data.on_exception",
        "While this was handled, Ends.finalize raised OSError: third",
        "While this was handled, teardown of Events raised KeyboardInterrupt: fourth",
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "Events.on_exception failed while the run was ending",
        "Data.on_exception failed while the run was ending",
        "Ends.finalize failed while the run was ending",
        "teardown of Events failed while the run was ending",
    ]


def test_an_error_in_teardown_after_a_good_run_is_raised_once_everyone_was_reached() -> None:
    events: list[str] = []
    trainer = make(Events(events, teardown=RuntimeError("stuck")), Events(events), logger=Ends(events, OSError("full")))
    with pytest.raises(RuntimeError, match="stuck") as raised:
        trainer.fit(BoringModule())
    assert events == ["setup", "setup", "teardown", "teardown", "finalize failed"]
    assert raised.value.__notes__[-1] == "While this was handled, Ends.finalize raised OSError: full"
    assert trainer.interrupted


def test_an_error_of_a_logger_that_closes_after_a_good_run_is_raised_once_all_are_closed() -> None:
    events: list[str] = []
    trainer = make(logger=[Ends(events, OSError("full")), Ends(events)])
    with pytest.raises(OSError, match="full"):
        trainer.fit(BoringModule())
    assert events == ["finalize success", "finalize success"]
    assert (trainer.interrupted, trainer.running) == (True, False)


@pytest.mark.filterwarnings("ignore:.*on_keyboard_interrupt is a hook of:DeprecationWarning")
def test_every_on_keyboard_interrupt_is_reached_although_one_fails() -> None:
    told: list[str] = []

    class Older(Callback):
        def on_keyboard_interrupt(self, trainer: Trainer, pl_module: LightningModule) -> None:
            told.append("interrupt")
            raise ValueError("again")

        def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
            told.append("exception")

    stop = LambdaCallback(on_train_start=raises(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        make(Older(), Older(), stop).fit(BoringModule())
    assert told == ["interrupt", "interrupt", "exception", "exception"]


def test_a_callback_that_leaves_the_run_is_torn_down_and_one_that_comes_in_a_setup_is_set_up() -> None:
    events: list[str] = []
    late = Events(events)

    class Changes(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            trainer.callbacks.append(late)

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.callbacks.remove(late)

    trainer = make(Changes())
    trainer.fit(BoringModule())
    assert events == ["setup", "teardown"]
    assert late not in trainer.callbacks


def test_a_callback_that_comes_later_is_neither_set_up_nor_torn_down() -> None:
    events: list[str] = []
    late = Events(events)
    joins = LambdaCallback(on_train_start=lambda trainer, module: trainer.callbacks.append(late))
    make(joins).fit(BoringModule())
    assert events == []


def nested(fn: str, hook: str) -> tuple[Trainer, Callable[[], None]]:
    def call(trainer: Trainer, module: LightningModule, *args: Any) -> None:
        getattr(trainer, fn)(module)

    trainer = make(LambdaCallback(**{hook: call}))
    return trainer, lambda: trainer.fit(BoringModule())


@pytest.mark.parametrize("fn", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("hook", ["setup", "on_train_batch_end", "on_validation_end", "teardown"])
def test_an_entry_point_within_another_of_the_same_trainer_is_refused(fn: str, hook: str) -> None:
    trainer, run = nested(fn, hook)
    where = rf"Trainer\.{fn} was called while Trainer\.fit of the same trainer is running, in {hook}"
    with pytest.raises(MisconfigurationException, match=where) as raised:
        run()
    assert f"Trainer(...).{fn}(module, ...)" in str(raised.value)
    assert (trainer.running, trainer.interrupted) == (False, True)


def test_another_trainer_may_run_the_module_within_a_run_and_gives_it_back() -> None:
    seen: list[dict[str, Any]] = []

    def evaluate(trainer: Trainer, module: LightningModule, *args: Any) -> None:
        seen.extend(dict(metrics) for metrics in make().test(module, verbose=False))
        assert module.trainer is trainer
        assert module.training

    class Plain(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("of_the_outer", loss)
            return loss

    def weights(*callbacks: Callback) -> Tensor:
        torch.manual_seed(0)
        module, trainer = Plain(), make(*callbacks)
        trainer.fit(module)
        assert set(trainer.callback_metrics) == {"of_the_outer", "val_loss"}
        return module.layer.weight.detach()

    assert torch.equal(weights(), weights(LambdaCallback(on_train_batch_end=evaluate)))
    assert [list(metrics) for metrics in seen] == [["test_loss"], ["test_loss"]]


def test_the_handler_of_sigterm_is_given_back_and_a_failed_trainer_can_fit_again() -> None:
    before = signal.getsignal(signal.SIGTERM)
    handlers: list[Any] = []
    fails = LambdaCallback(on_train_batch_end=raises(ValueError("once")))
    trainer = make(LambdaCallback(setup=lambda *args: handlers.append(signal.getsignal(signal.SIGTERM))), fails)
    module = BoringModule()
    with pytest.raises(ValueError, match="once"):
        trainer.fit(module)
    assert handlers != [before]
    assert signal.getsignal(signal.SIGTERM) is before
    trainer.callbacks.remove(fails)
    trainer.fit(module)
    assert (trainer.current_epoch, trainer.global_step, trainer.interrupted) == (1, 3, False)


@pytest.mark.parametrize("fn", ["fit", "validate", "test", "predict"])
def test_the_profiler_tells_of_every_entry_point(fn: str, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(make(profiler="simple"), fn)(BoringModule())
    assert "_step" in capsys.readouterr().out


def test_hyperparameters_of_module_and_datamodule_reach_the_loggers() -> None:
    given: list[dict[str, Any]] = []

    class Keeps(Ends):
        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            given.append(dict(params))

    class Net(BoringModule):
        def __init__(self, rate: float = 0.1) -> None:
            super().__init__()
            self.save_hyperparameters()

    make(logger=Keeps([])).fit(Net())
    assert given == [{"rate": 0.1}]


class Widening(Callback):
    """Puts a wider layer into the module, and notes when."""

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.events.append("setup")

    def prepare_module(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        self.events.append(f"prepare_module {None if checkpoint is None else checkpoint['global_step']}")
        pl_module.layer = torch.nn.Linear(4, 3)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        self.events.append("on_load_checkpoint")
        assert torch.equal(pl_module.layer.weight, checkpoint["state_dict"]["layer.weight"])

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.events.append("on_fit_start")


class Widened(BoringModule):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def setup(self, stage: str) -> None:
        self.events.append("module.setup")

    def configure_model(self) -> None:
        self.events.append("module.configure_model")

    def configure_optimizers(self) -> Any:
        self.events.append("module.configure_optimizers")
        assert self.layer.weight.shape == (3, 4)
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_callbacks_change_a_module_that_is_whole_before_weights_and_optimizers_depend_on_it(tmp_path: Any) -> None:
    def trainer(max_epochs: int, events: list[str]) -> Trainer:
        return Trainer(
            max_epochs=max_epochs, logger=False, callbacks=[Widening(events)], num_sanity_val_steps=0, accelerator="cpu"
        )

    events: list[str] = []
    first = trainer(1, events)
    first.fit(Widened(events))
    whole = ["setup", "module.setup", "module.configure_model"]
    assert events == [*whole, "prepare_module None", "module.configure_optimizers", "on_fit_start"]
    first.save_checkpoint(tmp_path / "wide.ckpt")

    events = []
    trainer(2, events).fit(Widened(events), ckpt_path=tmp_path / "wide.ckpt")
    restored = [*whole, "prepare_module 2", "on_load_checkpoint"]
    assert events == [*restored, "module.configure_optimizers", "on_fit_start"]

    events = []
    trainer(1, events).validate(Widened(events), ckpt_path=tmp_path / "wide.ckpt")
    assert events == restored
