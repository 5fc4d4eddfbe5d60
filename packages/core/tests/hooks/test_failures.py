"""What happens to the others when a hook raises, in a real run: everyone is told and torn down, the error comes out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from leyden import Trainer
from leyden.callback import Callback, LambdaCallback
from leyden.testing import BoringModule, HookRecorder


def fails(error: BaseException) -> Callable[..., None]:
    def method(*args: Any) -> None:
        raise error

    return method


def run(recorder: HookRecorder, between: Callback, module: BoringModule | None = None) -> list[str]:
    """Fit with `between` between the recording callbacks a and b; return the hooks called, without their time."""
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        discover_callbacks=False,
        callbacks=[recorder.callback("a"), between, recorder.callback("b")],
    )
    try:
        trainer.fit(recorder.module(BoringModule) if module is None else module)
    finally:
        recorder.events[:] = [event.split(" @")[0] for event in recorder.events]
    return recorder.events


ENDING = ["a.teardown('fit')", "b.teardown('fit')", "module.teardown('fit')"]


@pytest.mark.parametrize("error", [ValueError("by intent"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_everyone_is_told_and_torn_down_and_the_error_is_raised_as_it_was(error: BaseException) -> None:
    recorder = HookRecorder()
    with pytest.raises(type(error)) as raised:
        run(recorder, LambdaCallback(on_train_batch_start=fails(error)))
    assert raised.value is error
    assert error.__notes__ == ["Raised by the callback LambdaCallback in on_train_batch_start."]
    kind = type(error).__name__
    assert recorder.events[-6:] == [
        "a.on_train_batch_start(T,0)",
        f"a.on_exception({kind})",
        f"b.on_exception({kind})",
        *ENDING,
    ]


def test_errors_while_an_error_is_handled_are_logged_and_noted_and_never_hide_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recorder = HookRecorder()
    failing = LambdaCallback(
        on_after_backward=fails(ValueError("first")),
        on_exception=fails(RuntimeError("second")),
        teardown=fails(RuntimeError("third")),
    )
    with caplog.at_level(logging.ERROR, "leyden"), pytest.raises(ValueError, match="first") as raised:
        run(recorder, failing)
    notes = raised.value.__notes__
    assert notes[0] == "Raised by the callback LambdaCallback in on_after_backward."
    assert [note.rpartition(" raised ")[2] for note in notes[1:]] == ["RuntimeError: second", "RuntimeError: third"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["second", "third"]
    assert recorder.events[-5:] == ["a.on_exception(ValueError)", "b.on_exception(ValueError)", *ENDING]


def test_an_error_in_setup_reaches_the_teardown_of_those_whose_setup_ran() -> None:
    recorder = HookRecorder()
    with pytest.raises(ValueError, match="no disk") as raised:
        run(recorder, LambdaCallback(setup=fails(ValueError("no disk"))))
    assert raised.value.__notes__ == ["Raised by the callback LambdaCallback in setup."]
    assert recorder.events == [
        "a.setup('fit')",
        "a.on_exception(ValueError)",
        "b.on_exception(ValueError)",
        "a.teardown('fit')",
    ]


def test_an_error_in_teardown_alone_still_tears_down_the_others_and_is_raised() -> None:
    recorder = HookRecorder()
    with pytest.raises(RuntimeError, match="stuck") as raised:
        run(recorder, LambdaCallback(teardown=fails(RuntimeError("stuck"))))
    assert raised.value.__notes__[0] == "Raised by the callback LambdaCallback in teardown."
    assert recorder.events[-3:] == ENDING


def test_an_error_of_the_module_has_no_note_of_a_callback() -> None:
    class Net(BoringModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("of the module")

    recorder = HookRecorder()
    with pytest.raises(ValueError, match="of the module") as raised:
        run(recorder, Callback(), Net())
    assert not hasattr(raised.value, "__notes__")
    assert recorder.events[-2:] == ENDING[:2]


def test_log_in_a_hook_of_a_callback_follows_the_rules_of_that_hook() -> None:
    class Logs(Callback):
        def on_train_batch_start(self) -> None:  # type: ignore[override]
            self.log("step", 1.0)

        def on_train_epoch_end(self) -> None:  # type: ignore[override]
            self.log("epoch", 2.0)

    class Net(BoringModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.log("of_module", 3.0, on_epoch=True)

    trainer = Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, discover_callbacks=False, callbacks=Logs()
    )
    trainer.fit(Net())
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert (metrics["step"], metrics["epoch"], metrics["of_module_epoch"]) == (1.0, 2.0, 3.0)
    with pytest.raises(Exception, match=r"self\.log\('x', .*\) was called in `on_fit_start`"):
        run(HookRecorder(), LambdaLog())


class LambdaLog(Callback):
    def on_fit_start(self) -> None:  # type: ignore[override]
        self.log("x", 1.0)
