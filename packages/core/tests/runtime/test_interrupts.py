"""Ctrl-C within a step of the optimizer, and elsewhere; signals are sent by this process to itself."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import LightningModule, Trainer
from leyden.callbacks import OnExceptionCheckpoint
from leyden.runtime.interrupts import HeldInterrupts

EVENTS: list[str] = []


def interrupt(name: str) -> None:
    EVENTS.append(f"{name} begins")
    os.kill(os.getpid(), signal.SIGINT)
    EVENTS.append(f"{name} ends")


def outer(name: str) -> None:
    inner(name)
    EVENTS.append("outer ends")


def press(held: HeldInterrupts) -> None:
    outer("x")
    held.let_go()


def inner(name: str) -> None:
    interrupt(name)


@pytest.mark.parametrize(
    ("within", "but_not_within", "expected"),
    [
        ([outer], [], ["x begins", "x ends", "outer ends"]),
        ([outer], [inner], ["x begins"]),
        ([inner], [outer], ["x begins", "x ends", "outer ends"]),
        ([], [], ["x begins"]),
    ],
)
def test_an_interrupt_waits_within_the_functions_that_are_named(
    within: list[Any], but_not_within: list[Any], expected: list[str]
) -> None:
    EVENTS.clear()
    held = HeldInterrupts([one.__code__ for one in within], [one.__code__ for one in but_not_within])
    held.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            press(held)
        held.let_go()  # once
    finally:
        held.stop()
    assert expected == EVENTS
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait() -> None:
    EVENTS.clear()
    held = HeldInterrupts([outer.__code__], [])
    held.start()
    try:
        outer("x")
        with pytest.raises(KeyboardInterrupt):
            outer("y")
        held.let_go()
    finally:
        held.stop()
    assert EVENTS == ["x begins", "x ends", "outer ends", "y begins"]


def test_a_handler_of_somebody_s_own_stays() -> None:
    def own(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGINT, own)
    try:
        held = HeldInterrupts([], [])
        held.start()
        assert signal.getsignal(signal.SIGINT) is own
        held.stop()
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_set_meanwhile_stays() -> None:
    """A hook of the user's may set one in the middle of a run, which begins to listen in each epoch."""

    def own(number: int, frame: Any) -> None: ...

    held = HeldInterrupts([], [])
    held.start()
    before = signal.signal(signal.SIGINT, own)
    try:
        for act in (held.stop, held.start, held.stop):
            act()
            assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert before == held._handle


def test_in_another_thread_nothing_is_held_back() -> None:
    held = HeldInterrupts([], [])
    thread = threading.Thread(target=held.start)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Interrupted(torch.optim.SGD):
    """In its step number 1, Ctrl-C is pressed when one weight is changed and the others are not."""

    at = 1

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.at -= 1
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight -= group["lr"] * weight.grad
                    if self.at == -1:
                        self.at -= 1
                        os.kill(os.getpid(), signal.SIGINT)


class Net(LightningModule):
    def __init__(self, at: int) -> None:
        super().__init__()
        self.net, self.at = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)), at
        self.ended: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).pow(2).mean()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ended.append(batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = Interrupted(self.parameters(), lr=0.1)
        optimizer.at = self.at
        return optimizer


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_run_that_ctrl_c_ends_in_a_step_goes_on_exactly(tmp_path: Path, at: int) -> None:
    def fit(module: Net, *callbacks: Any, ckpt_path: str | None = None) -> None:
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, callbacks=list(callbacks), discover_callbacks=False
        )
        trainer.fit(module, [torch.full((2, 4), number / 4) for number in range(4)], ckpt_path=ckpt_path)

    whole, cut, resumed = Net(-9), Net(at), Net(-9)
    cut.load_state_dict(whole.state_dict())
    saver = OnExceptionCheckpoint(tmp_path)
    fit(whole)
    with pytest.raises(KeyboardInterrupt):
        fit(cut, saver)
    fit(resumed, ckpt_path=saver.ckpt_path)
    assert cut.ended + resumed.ended == [0, 1, 2, 3]
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
