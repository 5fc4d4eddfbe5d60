"""EarlyStopping with `check_every_n_steps`: which scores it sees and when, and where a resumed run goes on looking."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.runtime.strategy import Strategy
from leyden.testing import BoringModule
from leyden_optim import EarlyStopping, GradientAccumulationScheduler


class Scripted(BoringModule):
    """Logs ``loss``, the given number for each training batch of the run, and ``val``, that batch's number."""

    def __init__(self, losses: Sequence[float], batches: int = 8) -> None:
        super().__init__(batches={"train": batches})
        self.losses = list(losses)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        seen = self.trainer.fit_loop.batches_seen
        self.log("loss", self.losses[min(seen, len(self.losses) - 1)], on_step=True, on_epoch=False)
        return self.loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", float(self.trainer.fit_loop.batches_seen))


class Judged(EarlyStopping):
    """Writes down each score that it judges, with the step at which it does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.judged: list[tuple[int, float]] = []

    def _judge(self, trainer: Trainer, score: float) -> None:
        self.judged.append((trainer.global_step, score))
        super()._judge(trainer, score)


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"logger": False, "max_epochs": 3, "num_sanity_val_steps": 0, "discover_callbacks": False}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **(quiet | given))


def judged(monitor: str, every: int, module: LightningModule, *others: Callback, **given: Any) -> list[Any]:
    stopping = Judged(monitor, patience=99, check_every_n_steps=every)
    trainer_with(stopping, *others, **given).fit(module)
    return stopping.judged


# -- what it sees -------------------------------------------------------------------------------------------------


def test_a_metric_of_steps_ends_an_epoch_in_its_middle() -> None:
    stopping = EarlyStopping("loss", patience=2, check_every_n_steps=3)
    trainer = trainer_with(stopping)
    trainer.fit(Scripted([9, 9, 5, 9, 9, 4, 9, 9, 4, 9, 9, 4]))  # looked at after steps 3, 6, 9, 12
    assert (trainer.global_step, trainer.current_epoch, stopping.stopped_epoch) == (12, 2, 1)
    assert stopping.stopping_reason_message == "loss = 4 is the last of 2 checks that did not improve on 4"


@pytest.mark.parametrize(
    ("every", "given", "steps"),
    [
        (5, {}, [5, 10, 15, 20]),
        (8, {}, [8, 16, 24]),
        (1, {"max_epochs": 1}, [1, 2, 3, 4, 5, 6, 7, 8]),
        (2, {"accumulate_grad_batches": 3}, [2, 4, 6, 8]),
        (3, {"accumulate_grad_batches": 3}, [3, 6, 9]),  # epochs end with a short window
        (100, {}, []),
        (3, {"max_steps": 7, "max_epochs": -1}, [3, 6]),
    ],
)
def test_it_looks_at_multiples_of_a_number_of_steps(every: int, given: dict[str, Any], steps: list[int]) -> None:
    assert [step for step, _ in judged("loss", every, Scripted([1.0]), **given)] == steps


class Stream:
    """Batches without a length."""

    def __iter__(self) -> Any:
        return iter([torch.ones(2, 4)] * 8)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_looks_at_the_step_of_a_short_window_in_data_without_a_length(accumulate: int) -> None:
    stopping = Judged("loss", patience=99, check_every_n_steps=3)
    trainer_with(stopping, accumulate_grad_batches=accumulate).fit(Scripted([1.0]), Stream())
    assert [step for step, _ in stopping.judged] == list(range(3, 25 if accumulate == 1 else 10, 3))


def test_it_looks_at_steps_whose_windows_change_in_size() -> None:
    growing = GradientAccumulationScheduler({3: 2, 7: 4}, "step")
    assert [step for step, _ in judged("loss", 2, Scripted([1.0]), growing)] == [2, 4, 6, 8, 10]
    shrinking = GradientAccumulationScheduler({0: 8, 2: 4, 3: 1}, "step")
    seen = judged("loss", 4, Scripted([1.0], batches=40), shrinking, max_epochs=1)
    assert [step for step, _ in seen] == [4, 8, 12, 16, 20]


def test_it_looks_at_steps_taken_by_hand_once_where_a_batch_takes_several() -> None:
    class Manual(Scripted):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            for _ in range(3):
                self.optimizers().step()
            return super().training_step(batch, batch_idx)

    assert [step for step, _ in judged("loss", 4, Manual([1.0]), max_epochs=1)] == [6, 9, 12, 18, 21, 24]


@pytest.mark.parametrize(
    ("every", "interval", "expected"),
    [
        (4, 4, [(4, 4.0), (8, 8.0), (12, 12.0), (16, 16.0)]),  # of the same batch: the validation comes first
        (3, 4, [(6, 4.0), (9, 8.0), (12, 12.0)]),  # at step 3 there is none, at 15 that of 12 again
        (2, 8, [(8, 8.0), (16, 16.0)]),  # each is judged once
        (5, 2, [(5, 4.0), (10, 10.0), (15, 14.0)]),
    ],
)
def test_a_metric_of_validation_is_judged_once_and_when_it_is_new(
    every: int, interval: int, expected: list[tuple[int, float]]
) -> None:
    assert judged("val", every, Scripted([1.0]), val_check_interval=interval, max_epochs=2) == expected


def test_a_validation_at_the_end_of_the_epoch_is_judged_there() -> None:
    assert judged("val", 8, Scripted([1.0]), max_epochs=2) == [(8, 8.0), (16, 16.0)]


def test_nothing_is_looked_at_in_a_quick_run_and_in_evaluation() -> None:
    stopping = Judged("loss", check_every_n_steps=1)
    trainer = trainer_with(stopping, fast_dev_run=True)
    trainer.fit(Scripted([1.0]))
    trainer.validate(Scripted([1.0]), verbose=False)
    assert stopping.judged == []


def test_no_batch_has_a_hook_because_of_it() -> None:
    trainer = trainer_with(EarlyStopping("loss", check_every_n_steps=2))
    trainer.fit(Scripted([1.0]))
    assert not any(trainer.plan.entries(f"on_train_batch_{event}") for event in ("start", "end"))


# -- a metric that is not there ------------------------------------------------------------------------------------


def test_a_misspelt_monitor_is_an_error_at_the_first_check_where_nothing_is_validated() -> None:
    trainer = trainer_with(EarlyStopping("los", check_every_n_steps=3), limit_val_batches=0)
    with pytest.raises(MisconfigurationException, match=r"no 'los' was logged. There are: loss. Did you mean 'loss'\?"):
        trainer.fit(Scripted([1.0]))
    assert trainer.global_step == 3


def test_a_misspelt_monitor_is_an_error_once_there_was_a_validation() -> None:
    trainer = trainer_with(EarlyStopping("vall", check_every_n_steps=3), val_check_interval=4)
    with pytest.raises(MisconfigurationException, match=r"no 'vall' was logged\. There are: loss, val\. Did"):
        trainer.fit(Scripted([1.0]))
    assert trainer.global_step == 6


def test_a_metric_of_epochs_is_no_metric_of_steps() -> None:
    class OfEpochs(Scripted):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.log("mean", 1.0, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    trainer = trainer_with(EarlyStopping("mean", check_every_n_steps=3), limit_val_batches=0)
    with pytest.raises(MisconfigurationException, match="sees no metric that is logged for epochs alone"):
        trainer.fit(OfEpochs([1.0]))


def test_where_it_is_not_strict_one_warning_is_all() -> None:
    trainer = trainer_with(EarlyStopping("nothing", strict=False, check_every_n_steps=2), limit_val_batches=0)
    with pytest.warns(UserWarning, match="no 'nothing' was logged") as warned:
        trainer.fit(Scripted([1.0]))
    assert len(warned) == 1
    assert trainer.current_epoch == 3


# -- from fit to fit ----------------------------------------------------------------------------------------------


def test_a_second_fit_goes_on_counting_steps_and_starts_clean() -> None:
    stopping = Judged("loss", patience=2, check_every_n_steps=3)
    trainer = trainer_with(stopping, max_epochs=99)
    trainer.fit(Scripted([1.0]))  # one improvement, then two that are none
    assert [step for step, _ in stopping.judged] == [3, 6, 9]
    stopping.judged.clear()
    trainer.fit(Scripted([2.0]))
    assert ([step for step, _ in stopping.judged], trainer.global_step) == ([12, 15, 18], 18)
    assert (stopping.wait_count, float(stopping.best_score)) == (2, 2.0)


def test_it_may_decide_again_where_a_minimum_was_not_reached() -> None:
    stopping = EarlyStopping("loss", patience=1, check_every_n_steps=2)
    trainer = trainer_with(stopping, min_steps=7)
    trainer.fit(Scripted([9, 3, 9, 3, 9, 2, 9, 1, 9, 1]))  # asks at step 4, thinks better of it at 6, asks at 10
    assert trainer.global_step == 10


class Cut(Exception):
    """Ends a run as a crash would."""


class CutAt(Callback):
    """Cuts the run in the `at`-th call of a hook; it has saved it then, or saves it because of that."""

    position = "checkpoint"

    def __init__(self, path: Path, hook: str, at: int, *, saves_on_exception: bool) -> None:
        self.path, self.hook, self.left, self.saves_on_exception = path, hook, at, saves_on_exception

    def _count(self, trainer: Trainer, hook: str) -> None:
        self.left -= hook == self.hook
        if hook == self.hook and self.left == 0:
            if not self.saves_on_exception:
                trainer.save_checkpoint(self.path)
            raise Cut

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "train_batch_end")

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "validation_start")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "validation_batch_end")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "validation_end")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "train_epoch_end")

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        if self.saves_on_exception:
            trainer.save_checkpoint(self.path)


LOSSES = [9, 9, 8, 9, 7, 7, 9, 7, 6, 6, 6, 6, 5, 6, 6, 6, 6, 6, 6, 6]


def run(monitor: str, accumulate: int, *callbacks: Callback, ckpt_path: Path | None = None) -> dict[str, Any]:
    stopping = EarlyStopping(monitor, patience=3, mode="min" if monitor == "loss" else "max", check_every_n_steps=2)
    trainer = trainer_with(stopping, *callbacks, accumulate_grad_batches=accumulate, val_check_interval=4)
    module = Scripted(LOSSES)
    if monitor == "val":
        module.losses = [0.0]
    trainer.fit(module, ckpt_path=ckpt_path)
    return {
        "state": repr(stopping.state_dict()),
        "ended": (trainer.global_step, trainer.current_epoch, trainer.fit_loop.batches_done),
    }


@pytest.mark.parametrize("saves_on_exception", [False, True])
@pytest.mark.parametrize("hook", ["train_batch_end", "validation_start", "validation_batch_end", "validation_end"])
@pytest.mark.parametrize(("monitor", "accumulate"), [("loss", 1), ("loss", 3), ("val", 1)])
def test_a_run_that_is_cut_anywhere_goes_on_exactly(
    tmp_path: Path, monitor: str, accumulate: int, hook: str, saves_on_exception: bool
) -> None:
    whole = run(monitor, accumulate)
    for at in range(1, 20 if hook == "train_batch_end" else 5):
        path = tmp_path / f"{at}.ckpt"
        try:
            run(monitor, accumulate, CutAt(path, hook, at, saves_on_exception=saves_on_exception))
        except Cut:
            assert run(monitor, accumulate, ckpt_path=path) == whole, at
        else:
            assert at > 3
            return


# -- several processes --------------------------------------------------------------------------------------------


class SecondOfTwo(Strategy):
    """The second of two processes, of which the first sees scores of its own."""

    global_rank, world_size = 1, 2

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__(torch.device("cpu"))
        self.scores = list(scores)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return (self.scores.pop(0), obj[1])


def test_the_first_process_decides() -> None:
    stopping = EarlyStopping("loss", patience=2, check_every_n_steps=2)
    trainer = trainer_with(stopping, strategy=SecondOfTwo([5, 4, 4, 4]), limit_val_batches=0)
    trainer.fit(Scripted([1.0 / (1 + number) for number in range(99)]))  # which get better and better here
    assert (trainer.global_step, float(stopping.best_score)) == (8, 4.0)
    assert copy.deepcopy(stopping).state_dict() == stopping.state_dict()
