"""The trainer's callbacks: they come and go within a run, are watched, and are told about."""

from __future__ import annotations

from typing import Any

import pytest

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.callback import Checkpoint, LambdaCallback
from leyden.testing import BoringModule


def make(*callbacks: Callback, **settings: Any) -> Trainer:
    usual: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "discover_callbacks": False}
    return Trainer(**(usual | settings), callbacks=callbacks)


class Records(Callback):
    def __init__(self, events: list[str], who: str) -> None:
        self.events, self.name = events, who

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.events.append(f"{self.name} start {batch_idx}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.events.append(f"{self.name} end {batch_idx}")


# -- callbacks that come and go ---------------------------------------------------------------------------------------


def test_a_callback_that_comes_within_a_run_is_called_from_the_next_hook_on() -> None:
    events: list[str] = []

    class Adds(Records):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            if batch_idx == 0:
                trainer.callbacks.append(Records(events, "late"))

    make(Adds(events, "first")).fit(BoringModule())
    assert events == [
        "first start 0", "first end 0", "late end 0", "first start 1", "late start 1", "first end 1", "late end 1",
    ]  # fmt: skip


def test_a_callback_that_leaves_within_a_run_is_called_no_more() -> None:
    events: list[str] = []

    class Leaves(Records):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            trainer.callbacks.remove(self)

    make(Leaves(events, "once"), Records(events, "other")).fit(BoringModule())
    assert events == ["once start 0", "other start 0", "other end 0", "other start 1", "other end 1"]


def test_a_list_changed_between_runs_is_that_of_the_next_run() -> None:
    events: list[str] = []
    trainer = make(Records(events, "a"), limit_train_batches=1)
    held = trainer.callbacks
    trainer.fit(BoringModule())
    held[0] = Records(events, "b")
    trainer.max_epochs = 2
    trainer.fit(trainer.lightning_module)
    assert events == ["a start 0", "a end 0", "b start 0", "b end 0"]


def test_a_bad_change_within_a_run_can_be_caught_and_the_run_goes_on() -> None:
    errors: list[str] = []

    def add_a_class(trainer: Trainer, module: LightningModule) -> None:
        try:
            trainer.callbacks.append(Callback)  # type: ignore[arg-type]
        except MisconfigurationException as error:
            errors.append(str(error))

    trainer = make(LambdaCallback(on_train_start=add_a_class))
    trainer.fit(BoringModule())
    assert (len(errors), len(trainer.callbacks), trainer.global_step) == (1, 1, 2)


def test_whoever_watches_hooks_stands_around_each_call_until_it_ends() -> None:
    events: list[str] = []

    def watched_by(watcher: str) -> Any:
        def wrap(owner: object, hook: str, call: Any) -> Any:
            def watched(*args: Any) -> Any:
                events.append(f"{watcher}: {type(owner).__name__}.{hook} of {len(args)}")
                return call(*args)

            return watched if hook.startswith("on_") else call

        return wrap

    trainer = make(Records(events, "one"), limit_train_batches=1)
    end_inner, end_outer = trainer.watch_hooks(watched_by("inner")), trainer.watch_hooks(watched_by("outer"))
    trainer.fit(BoringModule())
    assert events == [
        "outer: Records.on_train_batch_start of 2", "inner: Records.on_train_batch_start of 2", "one start 0",
        "outer: Records.on_train_batch_end of 3", "inner: Records.on_train_batch_end of 3", "one end 0",
    ]  # fmt: skip
    for end in (end_outer, end_inner, end_outer):
        end()
    events.clear()
    trainer.max_epochs = 2
    trainer.fit(BoringModule())
    assert events == ["one start 0", "one end 0"]


def test_configure_callbacks_stands_in_for_the_users_of_the_same_type() -> None:
    events: list[str] = []

    class Net(BoringModule):
        def configure_callbacks(self) -> Any:
            return Records(events, "module's")

    users, other = Records(events, "user's"), Checkpoint()
    trainer = make(users, other, limit_train_batches=1)
    held = trainer.callbacks
    trainer.fit(Net())
    assert events == ["module's start 0", "module's end 0"]
    assert [type(callback) for callback in held] == [Records, Checkpoint]
    events.clear()
    trainer.max_epochs = 2
    trainer.fit(BoringModule())
    assert events == ["user's start 0", "user's end 0"]
    assert held is trainer.callbacks
    assert held == [users, other]


def test_older_hooks_are_warned_of_once_however_often_the_trainer_runs() -> None:
    class Older(Callback):
        def on_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    class Net(BoringModule):
        def configure_callbacks(self) -> Any:
            return [Checkpoint()]

    with pytest.warns(DeprecationWarning, match=r"Older\.on_epoch_end is a hook of") as warned:
        trainer = make(Older())
    trainer.fit(Net())
    trainer.callbacks.append(Callback())
    trainer.test(verbose=False)
    assert len(warned) == 1


# -- what is said of callbacks ----------------------------------------------------------------------------------------


class Last(Checkpoint):
    """Saves nothing."""


class Early(Callback):
    runs_before = ("Records",)


def test_describe_callbacks_prints_and_returns_the_order_with_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make(Last(), Records([], "r"), Early())
    ordered = trainer.describe_callbacks()
    assert [(type(o.callback).__name__, o.reason) for o in ordered] == [
        ("Early", "given by the user; runs before Records 'r'"),
        ("Records", "given by the user; after Early, which declares it"),
        ("Last", "given by the user; position 'checkpoint'"),
    ]
    printed = capsys.readouterr().out
    assert "Callbacks, in the order of their calls" in printed
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert rows == [
        ["", "callback", "from", "reason"],
        ["1", "Early", "user", "given by the user; runs before Records 'r'"],
        ["2", "Records", "user", "given by the user; after Early, which declares it"],
        ["3", "Last", "user", "given by the user; position 'checkpoint'"],
    ]


def test_checkpointing_cannot_be_switched_off_and_given() -> None:
    with pytest.raises(MisconfigurationException, match=r"enable_checkpointing=False, callbacks=\[Last\(\.\.\.\)\]"):
        make(Last(), enable_checkpointing=False)


def test_max_time_beside_a_timer_is_ignored_with_a_warning() -> None:
    from leyden.callbacks import Timer

    timer = Timer(duration="00:00:10:00")
    with pytest.warns(UserWarning, match="max_time='00:01:00:00'.* is ignored, since callbacks= holds a Timer"):
        trainer = make(timer, max_time="00:01:00:00")
    assert trainer.callbacks == [timer]
    (own,) = make(max_time={"hours": 1}).callbacks
    assert type(own) is Timer
