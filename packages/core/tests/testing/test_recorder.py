"""The recorder writes each call as one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.callback import Callback, Checkpoint
from leyden.hooks.checks import check_callbacks, check_module
from leyden.hooks.contract import HOOKS, hooks_of_callbacks
from leyden.testing import BoringModule, HookRecorder


class Progress:
    current_epoch = 3
    global_step = 14


TRAINER: Any = Progress()
MODULE: Any = None
OPTIMIZER = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


class Wrapper:
    optimizer = OPTIMIZER


@pytest.mark.parametrize(
    ("name", "args", "event"),
    [
        ("setup", ("fit",), "a.setup('fit') @3/14"),
        ("on_fit_start", (), "a.on_fit_start() @3/14"),
        ("on_train_batch_start", (torch.ones(1), 2), "a.on_train_batch_start(T,2) @3/14"),
        (
            "on_train_batch_end",
            ({"loss": 1}, [torch.ones(1), None], 0),
            "a.on_train_batch_end({loss},[T,None],0) @3/14",
        ),
        ("on_before_optimizer_step", (OPTIMIZER,), "a.on_before_optimizer_step(opt) @3/14"),
        ("on_before_zero_grad", (Wrapper(),), "a.on_before_zero_grad(opt) @3/14"),
        ("on_exception", (KeyError("x"),), "a.on_exception(KeyError) @3/14"),
    ],
)
def test_events_of_a_callback(name: str, args: tuple[Any, ...], event: str) -> None:
    recorder = HookRecorder()
    getattr(recorder.callback("a"), name)(TRAINER, MODULE, *args)
    assert recorder.events == [event]


def test_hooks_without_a_trainer_are_recorded_at_the_beginning_and_keep_their_value() -> None:
    recorder = HookRecorder()
    assert recorder.callback("a").state_dict() == {}
    assert recorder.events == ["a.state_dict() @0/0"]


def test_a_callback_is_of_its_base_and_passes_its_arguments_on() -> None:
    class Every(Checkpoint):
        def __init__(self, n: int) -> None:
            self.n = n
            self.calls = 0

        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.calls += self.n

    recorder = HookRecorder()
    callback = recorder.callback("every", Every, n=5)
    callback.on_fit_start(TRAINER, MODULE)
    assert (callback.calls, callback.name, recorder.events) == (5, "every", ["every.on_fit_start() @3/14"])


def test_it_overrides_every_hook_of_today() -> None:
    cls: type = type(HookRecorder().callback("a", Callback))
    assert {name for name in hooks_of_callbacks() if name in vars(cls)} == set(hooks_of_callbacks())
    assert "on_epoch_end" not in vars(cls)


def test_two_recording_callbacks_and_a_module_pass_the_checks() -> None:
    recorder = HookRecorder()
    check_callbacks([recorder.callback("a"), recorder.callback("b"), recorder.callback("c", Callback)])
    check_module(recorder.module(BoringModule, also=[name for name, hook in HOOKS.items() if not hook.callbacks]))
    assert recorder.events == []


def test_a_module_records_steps_where_asked_and_returns_what_they_do() -> None:
    recorder = HookRecorder()
    module = recorder.module(BoringModule, also=["predict_step", "configure_optimizers"], in_features=3)
    output = module.predict_step(torch.zeros(2, 3), 1)
    optimizer = module.configure_optimizers()
    module.on_fit_start()
    assert output.shape == (2, 2)
    assert isinstance(optimizer, torch.optim.SGD)
    assert recorder.events == [
        "module.predict_step(T,1) @0/0",
        "module.configure_optimizers() @0/0",
        "module.on_fit_start() @0/0",
    ]


def test_devices_and_closures_are_left_out() -> None:
    recorder = HookRecorder()
    module = recorder.module(BoringModule, also=["transfer_batch_to_device", "optimizer_step"])
    module.transfer_batch_to_device(torch.ones(1), torch.device("cpu"), 0)
    module.optimizer_step(0, 1, OPTIMIZER, lambda: None)
    assert recorder.events == ["module.transfer_batch_to_device(T,0) @0/0", "module.optimizer_step(0,1,opt) @0/0"]


def test_how_a_run_ended() -> None:
    recorder = HookRecorder()
    recorder.ended(TRAINER, lambda: 0)

    def fail() -> None:
        raise KeyboardInterrupt

    recorder.ended(TRAINER, fail)
    assert recorder.events == ["returned", "end @3/14", "raised KeyboardInterrupt", "end @3/14"]
