"""Timer: with a clock that the training itself drives."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer, callbacks
from leyden.errors import MisconfigurationException
from leyden.runtime.strategy import Strategy
from leyden.testing import BoringModule
from leyden_optim import Timer

NOW = [0.0]


@pytest.fixture(autouse=True)
def _midnight() -> None:
    NOW[0] = 0.0


class ByHand(Timer):
    """A timer whose clock goes on only when a step takes its time."""

    @staticmethod
    def clock() -> float:
        return NOW[0]


class Slow(BoringModule):
    """Ten seconds a training batch, one a validation or test batch, a hundredth a predict batch."""

    def __init__(self) -> None:
        super().__init__(batches={"train": 4, "val": 2, "test": 3, "predict": 2})

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        NOW[0] += 10
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        NOW[0] += 1
        super().validation_step(batch, batch_idx)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        NOW[0] += 1
        super().test_step(batch, batch_idx)

    def predict_step(self, batch: Tensor, *indices: int) -> Any:
        NOW[0] += 0.01
        return self(batch)


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"logger": False, "max_epochs": 5, "num_sanity_val_steps": 0, "discover_callbacks": False}
    return Trainer(callbacks=list(callbacks), **(quiet | given))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"duration": "1h"}, "duration='1h': expected 'DD:HH:MM:SS'"),
        ({"duration": 60}, "duration=60: expected 'DD:HH:MM:SS', a timedelta or a dict such as {'seconds': 60}"),
        ({"duration": {"hour": 1}}, "Did you mean 'hours'?"),
        ({"duration": timedelta(seconds=-1)}, "not negative"),
        ({"interval": "batch"}, "interval='batch': expected 'step' or 'epoch'"),
        ({"interval": "epochs"}, "Did you mean 'epoch'?"),
        ({"verbose": 1}, "verbose=1: expected True or False"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        Timer(**arguments)
    assert str(error.value).startswith("Timer(...) cannot work:\n  - ")
    assert told in str(error.value)


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(MisconfigurationException) as error:
        Timer("soon", "later", verbose=None)  # type: ignore[arg-type]
    assert str(error.value).count("\n  - ") == 3


@pytest.mark.parametrize(
    ("arguments", "given", "steps"),
    [
        ({"duration": "00:00:00:25"}, {}, 3),
        ({"duration": {"seconds": 25}, "interval": "epoch"}, {}, 4),
        ({"duration": timedelta(seconds=55)}, {}, 6),  # 4 steps, 2 s of validation, 2 steps
        ({"duration": timedelta(seconds=55), "interval": "epoch"}, {}, 8),
        ({"duration": timedelta(seconds=25)}, {"accumulate_grad_batches": 2}, 1),
        ({"duration": timedelta(seconds=25)}, {"min_steps": 6}, 6),
        ({"duration": timedelta(seconds=25)}, {"min_epochs": 1}, 4),
        ({"duration": timedelta(0)}, {}, 0),
        ({"duration": timedelta(days=1)}, {}, 20),
        ({}, {}, 20),
    ],
)
def test_training_ends_when_time_is_up(arguments: dict[str, Any], given: dict[str, Any], steps: int) -> None:
    trainer = trainer_with(ByHand(**arguments), **given)
    trainer.fit(Slow())
    assert trainer.global_step == steps


def test_every_stage_has_its_own_time() -> None:
    timer = ByHand()
    trainer, module = trainer_with(timer, max_epochs=2, num_sanity_val_steps=1), Slow()
    assert (timer.start_time(), timer.end_time(), timer.time_elapsed(), timer.time_remaining()) == (None, None, 0, None)
    trainer.fit(module)
    assert (timer.start_time("train"), timer.end_time("train")) == (1.0, 85.0)
    assert timer.time_elapsed("train") == 84.0
    assert (timer.start_time("validate"), timer.end_time("validate")) == (83.0, 85.0)
    assert timer.time_elapsed("validate") == 4.0
    assert timer.time_elapsed("sanity_check") == 1.0
    trainer.test(module, verbose=False)
    trainer.predict(module)
    assert (timer.time_elapsed("test"), timer.time_elapsed("train")) == (3.0, 84.0)
    assert timer.time_elapsed("predict") == pytest.approx(0.02)
    trainer.validate(module, verbose=False)
    assert timer.time_elapsed("validate") == 2.0


def test_a_stage_there_is_not_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"Timer knows no stage 'trian'; .* Did you mean 'train'\?"):
        Timer().time_elapsed("trian")


def test_the_time_that_remains() -> None:
    timer = ByHand("00:00:01:40")
    trainer_with(timer, max_epochs=1).fit(Slow())
    assert timer.time_remaining() == 58.0
    assert timer.time_remaining("validate") == 98.0
    trainer_with(timer, max_epochs=5).fit(Slow())
    assert timer.time_remaining() == 0.0


def test_a_second_fit_has_all_the_time_again() -> None:
    timer = ByHand("00:00:00:25")
    for _ in range(2):
        trainer = trainer_with(timer)
        trainer.fit(Slow())
        assert trainer.global_step == 3


def test_time_goes_on_after_a_resume() -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:  # type: ignore[override]
            if trainer.global_step == 2:
                trainer.save_checkpoint("after two.ckpt")
                raise KeyboardInterrupt

    timer = ByHand("00:00:00:35")
    with pytest.raises(KeyboardInterrupt):
        trainer_with(timer, Save()).fit(Slow())
    NOW[0] += 1000
    assert timer.time_elapsed() == 20.0
    resumed = ByHand("00:00:00:35")
    trainer = trainer_with(resumed)
    trainer.fit(Slow(), ckpt_path="after two.ckpt")
    assert (trainer.global_step, resumed.time_elapsed()) == (4, 42.0)


def test_a_run_whose_time_was_up_does_not_train_on() -> None:
    timer = ByHand("00:00:00:25")
    trainer = trainer_with(timer)
    trainer.fit(Slow())
    trainer.save_checkpoint("up.ckpt")
    again = trainer_with(ByHand("00:00:00:25"))
    again.fit(Slow(), ckpt_path="up.ckpt")
    assert again.global_step == 3
    longer = trainer_with(ByHand("00:00:00:45"))
    longer.fit(Slow(), ckpt_path="up.ckpt")
    assert longer.global_step == 5


def test_the_state_survives_the_round_trip() -> None:
    first, second = ByHand(), ByHand()
    trainer_with(first, max_epochs=1).fit(Slow())
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.state_dict()["time_elapsed"]["train"] == 42.0


def test_it_says_when_time_is_up_unless_told_not_to(caplog: pytest.LogCaptureFixture) -> None:
    for verbose in (True, False):
        with caplog.at_level(logging.INFO, logger="leyden"):
            trainer_with(ByHand("00:00:00:25", verbose=verbose)).fit(Slow())
    trainer_with(ByHand({"milliseconds": 50})).fit(Slow())
    told = [record.message for record in caplog.records if "the time is up" in record.message]
    assert told == [
        "ByHand: the time is up (0:00:30 of 0:00:25); training stops.",
        "ByHand: the time is up (0:00:10 of 0.05 s); training stops.",
    ]


def test_a_real_clock_moves_on() -> None:
    timer = Timer()
    trainer_with(timer, max_epochs=1).fit(BoringModule())
    assert 0.0 < timer.time_elapsed("validate") < timer.time_elapsed("train")


def test_the_trainers_max_time_is_this_callback() -> None:
    trainer = trainer_with(max_time={"hours": 1})
    (timer,) = trainer.callbacks
    assert isinstance(timer, Timer)
    assert timer.time_remaining() == 3600.0
    with pytest.raises(MisconfigurationException, match="expected 'DD:HH:MM:SS'"):
        trainer_with(max_time="1 hour")


def test_max_time_without_the_family_names_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "leyden_optim", None)
    monkeypatch.delitem(vars(callbacks), "Timer", raising=False)
    with pytest.raises(ImportError) as error:
        trainer_with(max_time="00:01:00:00")
    assert str(error.value) == (
        "Trainer(max_time='00:01:00:00') is kept by a callback: Timer is in the distribution leyden-callbacks-optim, "
        "which is not installed here. To install it: pip install leyden-callbacks-optim"
    )


def test_what_a_resumed_run_has_left_of_a_validation_is_timed() -> None:
    class Save(Callback):
        def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, batch_idx: int) -> None:  # type: ignore[override]
            if trainer.global_step == 4 and batch_idx == 0:
                trainer.save_checkpoint("within.ckpt")
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer_with(ByHand(), Save()).fit(Slow())
    NOW[0] += 1000
    resumed = ByHand()
    trainer_with(resumed, max_epochs=1).fit(Slow(), ckpt_path="within.ckpt")
    assert (resumed.time_elapsed("train"), resumed.time_elapsed("validate")) == (42.0, 2.0)


class SecondOfTwo(Strategy):
    """The second of two processes; the clock of the first goes twice as fast."""

    global_rank, world_size = 1, 2

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj * 2


@pytest.mark.filterwarnings("ignore:.*without sync_dist=True")
def test_the_clock_of_the_first_process_decides() -> None:
    trainer = trainer_with(ByHand("00:00:01:00", "epoch"), strategy=SecondOfTwo(torch.device("cpu")))
    trainer.fit(Slow())
    assert trainer.global_step == 4


@pytest.mark.filterwarnings("ignore:.*without sync_dist=True")
def test_between_batches_another_process_does_not_look_at_its_clock() -> None:
    timer, strategy = ByHand("00:00:01:00"), SecondOfTwo(torch.device("cpu"))
    trainer = trainer_with(timer, strategy=strategy, max_epochs=3)
    trainer.fit(Slow())
    assert (trainer.should_stop, timer.time_elapsed() > 60) == (False, True)


def test_time_runs_in_manual_optimisation_too() -> None:
    class Manual(Slow):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            NOW[0] += 10
            self.optimizers().step()

    trainer = trainer_with(ByHand("00:00:00:25"))
    trainer.fit(Manual())
    assert trainer.global_step == 3
