"""What the trainer adds to a step, counted exactly: Python calls, which no noise of a machine moves.

Counted is ``sys.setprofile``'s ``call`` event: a Python function entered or a generator resumed. That is the counting
by which the hand-written step in a function of its own makes 80 calls (torch 2.13); calls of C functions are not in it.
Runs of n and of 2n steps are subtracted, so that start and end of a run cancel and the figure is exact.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ThroughputMonitor
from leyden_monitoring import RichProgressBar, TQDMProgressBar

_STEPS = 100  # a multiple of log_every_n_steps=50: both runs have their share of the steps that log
_LIMIT = 110


class _Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.training_step(batch, batch_idx)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.training_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-4)


class _Logging(_Net):
    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


class _Idle(Callback):
    """Overrides nothing."""


class _Batches:
    """Ready-made batches of a known length."""

    def __init__(self, number: int) -> None:
        self._batches = [torch.ones(8, 32)] * number

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._batches)


def _calls_per_step(run: Callable[[_Batches], object]) -> float:
    run(_Batches(_STEPS))  # what is imported or cached by a first run is so now
    return (_calls(run, 2 * _STEPS) - _calls(run, _STEPS)) / _STEPS


def _calls(run: Callable[[_Batches], object], steps: int) -> int:
    batches, calls = _Batches(steps), 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    outer = sys.getprofile()
    gc.collect()
    gc.disable()  # a collection calls finalisers, at no step in particular
    sys.setprofile(count)
    try:
        run(batches)
    finally:
        sys.setprofile(outer)
        gc.enable()
    return calls


def _by_hand(batches: _Batches) -> None:
    module = _Net()
    optimizer = module.configure_optimizers()

    def step(batch: Tensor, batch_idx: int) -> None:
        optimizer.zero_grad()
        loss = module.training_step(batch, batch_idx)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for batch_idx, batch in enumerate(batches):
        step(batch, batch_idx)


def _trainer(callbacks: int = 0, *others: Callback) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[*others, *(_Idle() for _ in range(callbacks))],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        discover_callbacks=False,
    )


def test_the_hand_written_step_is_counted_as_documented() -> None:
    calls = _calls_per_step(_by_hand)
    assert calls == int(calls)
    if torch.__version__.startswith("2.13."):
        assert calls == 80


def test_a_training_step_stays_within_its_calls_whatever_the_number_of_idle_callbacks() -> None:
    bare = _calls_per_step(lambda batches: _trainer().fit(_Net(), batches))
    crowded = _calls_per_step(lambda batches: _trainer(callbacks=100).fit(_Net(), batches))
    assert bare == crowded
    # The room is the trainer's, whatever another torch's own share of the step is.
    assert bare <= _calls_per_step(_by_hand) + (_LIMIT - 80)


def test_a_log_call_costs_a_few_calls_only() -> None:
    bare = _calls_per_step(lambda batches: _trainer().fit(_Net(), batches))
    logging = _calls_per_step(lambda batches: _trainer().fit(_Logging(), batches))
    assert logging - bare <= 12


def test_counting_throughput_costs_a_few_calls_between_reports() -> None:
    bare = _calls_per_step(lambda batches: _trainer().fit(_Net(), batches))
    watched = _calls_per_step(lambda batches: _trainer(0, ThroughputMonitor()).fit(_Net(), batches))
    # The plan's runner, the hook, the counting, the batch's size; and a fiftieth of a report.
    assert watched - bare <= 4.5


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar])
def test_a_progress_bar_adds_less_than_a_call_to_a_step(bar: Callable[[], Callback]) -> None:
    def run(batches: _Batches) -> None:
        trainer = _trainer()
        trainer.callbacks.append(bar())
        trainer.fit(_Net(), batches)

    bare = _calls_per_step(lambda batches: _trainer().fit(_Net(), batches))
    assert bare <= _calls_per_step(run) < bare + 1


@pytest.mark.parametrize("entry_point", ["validate", "predict"])
def test_evaluation_adds_a_few_calls_to_its_step(entry_point: str) -> None:
    def by_hand(batches: _Batches) -> list[Tensor]:
        step = _Net().validation_step
        with torch.inference_mode():
            return [step(batch, batch_idx) for batch_idx, batch in enumerate(batches)]

    calls = _calls_per_step(lambda batches: getattr(_trainer(), entry_point)(_Net(), batches))
    assert calls <= _calls_per_step(by_hand) + 8
