"""EarlyStopping on tiny trainings: when they end, and why."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.testing import BoringModule
from leyden_optim import EarlyStopping, EarlyStoppingReason


class Scripted(BoringModule):
    """Four training batches an epoch; the n-th validation logs the n-th of the given scores, then the last again."""

    def __init__(self, scores: Sequence[float] = (1.0,)) -> None:
        super().__init__(batches={"train": 4})
        self.scores, self.validations = list(scores), 0

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.scores[min(self.validations, len(self.scores) - 1)])

    def on_validation_end(self) -> None:
        self.validations += not self.trainer.sanity_checking


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"logger": False, "max_epochs": 10, "discover_callbacks": False}
    return Trainer(callbacks=list(callbacks), **(quiet | given))


def fit(stopping: EarlyStopping, module: LightningModule, **given: Any) -> Trainer:
    trainer = trainer_with(stopping, **given)
    trainer.fit(module)
    return trainer


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"monitor": None}, "monitor=None: expected the name of a metric"),
        ({"monitor": ""}, "monitor='': expected the name of a metric"),
        ({"min_delta": -0.1}, "min_delta=-0.1: expected a number >= 0"),
        ({"min_delta": math.inf}, "min_delta=inf: expected a number >= 0"),
        ({"min_delta": "0"}, "min_delta='0': expected a number >= 0"),
        ({"patience": -1}, "patience=-1: expected a number of checks"),
        ({"patience": 2.0}, "patience=2.0: expected a number of checks"),
        ({"patience": True}, "patience=True: expected a number of checks"),
        ({"verbose": 1}, "verbose=1: expected True or False"),
        ({"mode": "auto"}, "mode='auto': expected 'min' or 'max'"),
        ({"mode": "mins"}, "Did you mean 'min'?"),
        ({"strict": None}, "strict=None: expected True or False"),
        ({"check_finite": 0}, "check_finite=0: expected True or False"),
        ({"stopping_threshold": "low"}, "stopping_threshold='low': expected a number or None"),
        ({"divergence_threshold": math.nan}, "divergence_threshold=nan: expected a number or None"),
        ({"stopping_threshold": 2.0, "divergence_threshold": 1.0}, "give a stopping_threshold below the divergence_"),
        (
            {"stopping_threshold": 1.0, "divergence_threshold": 1.0, "mode": "max"},
            "give a stopping_threshold above the divergence_threshold",
        ),
        ({"check_on_train_epoch_end": "yes"}, "check_on_train_epoch_end='yes': expected True, False or None"),
        ({"log_rank_zero_only": 1}, "log_rank_zero_only=1: expected True or False"),
        ({"check_every_n_steps": 0}, "check_every_n_steps=0: expected a number of optimizer steps (int >= 1) or None"),
        ({"check_every_n_steps": 2.0}, "check_every_n_steps=2.0: expected a number of optimizer steps"),
        ({"check_every_n_steps": True}, "check_every_n_steps=True: expected a number of optimizer steps"),
        (
            {"check_every_n_steps": 5, "check_on_train_epoch_end": False},
            "check_every_n_steps=5 and check_on_train_epoch_end=False both say when to check",
        ),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        EarlyStopping(**({"monitor": "val_loss"} | arguments))
    assert str(error.value).startswith("EarlyStopping(...) cannot work:\n  - ")
    assert told in str(error.value)


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(MisconfigurationException) as error:
        EarlyStopping(3, -1.0, -1, mode="?")  # type: ignore[arg-type]
    assert str(error.value).count("\n  - ") == 4


def test_the_arguments_can_be_read_back() -> None:
    stopping = EarlyStopping("acc", 0.1, 5, mode="max")
    assert (stopping.monitor, stopping.min_delta, stopping.patience, stopping.mode) == ("acc", 0.1, 5, "max")
    assert (float(stopping.best_score), stopping.wait_count, stopping.stopped_epoch) == (-math.inf, 0, 0)
    assert (stopping.check_finite, stopping.stopping_threshold, stopping.divergence_threshold) == (True, None, None)
    assert stopping.state_key == "EarlyStopping{'monitor': 'acc', 'mode': 'max'}"


def test_an_argument_that_is_set_later_is_checked_and_holds() -> None:
    stopping = EarlyStopping("val_loss", patience=1)
    fit(stopping, Scripted([3]))
    assert stopping.stopped_epoch == 1
    stopping.patience, stopping.stopping_threshold = 9, 0.5
    fit(stopping, Scripted([3, 3, 3, 0]))
    assert (stopping.stopped_epoch, str(stopping.stopping_reason)) == (3, "stopping_threshold")
    with pytest.raises(MisconfigurationException, match=r"patience=-1: expected a number of checks \(int >= 0\)"):
        stopping.patience = -1
    assert stopping.patience == 9


class AtTheEnd(EarlyStopping):
    """As Lightning's documentation shows how to check elsewhere."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pass

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._run_early_stopping_check(trainer)


def test_a_subclass_may_check_in_a_hook_of_its_own() -> None:
    stopping = AtTheEnd("val_loss", patience=1, stopping_threshold=2.0)
    fit(stopping, Scripted([3, 3, 3, 1]), max_epochs=4)
    assert (float(stopping.best_score), str(stopping.stopping_reason)) == (1.0, "stopping_threshold")


@pytest.mark.parametrize(
    ("scores", "arguments", "epochs", "reason"),
    [
        ([5, 4, 3, 2, 1, 0], {"patience": 1}, 6, "not_stopped"),
        ([3, 2, 2, 2, 2, 2], {"patience": 2}, 4, "patience_exhausted"),
        ([3, 4, 2, 3, 3, 3], {"patience": 3}, 6, "patience_exhausted"),
        ([3, 3, 3, 3, 3, 3], {"patience": 0}, 2, "patience_exhausted"),
        ([1, 2, 2, 2, 2, 2], {"patience": 1, "mode": "max"}, 3, "patience_exhausted"),
        ([4, 3.5, 2.9, 2.5, 1.8, 1.8], {"patience": 2, "min_delta": 1.0}, 6, "not_stopped"),
        ([4, 3.5, 3.2, 2.5, 2, 2], {"patience": 2, "min_delta": 1.0}, 3, "patience_exhausted"),
        ([4, math.nan, 1], {}, 2, "non_finite_metric"),
        ([4, -math.inf, 1], {}, 2, "non_finite_metric"),
        ([4, math.nan, 1, 0, 0, 0], {"check_finite": False}, 6, "not_stopped"),
        ([4, 3, 0.5, 1], {"stopping_threshold": 1.0}, 3, "stopping_threshold"),
        ([4, 3, 11, 1], {"divergence_threshold": 10.0}, 3, "divergence_threshold"),
        ([1, 2, 9.5, 1], {"stopping_threshold": 9.0, "mode": "max"}, 3, "stopping_threshold"),
        ([1, -2, 1], {"divergence_threshold": 0.0, "mode": "max"}, 2, "divergence_threshold"),
    ],
)
def test_when_and_why_a_training_ends(scores: list[float], arguments: dict[str, Any], epochs: int, reason: str) -> None:
    stopping = EarlyStopping("val_loss", **arguments)
    trainer = fit(stopping, Scripted(scores), max_epochs=6)
    assert trainer.current_epoch == epochs
    assert str(stopping.stopping_reason) == reason
    assert stopping.stopped_epoch == (0 if reason == "not_stopped" else epochs - 1)
    assert (stopping.stopping_reason_message is None) == (reason == "not_stopped")
    assert trainer.early_stopping_callback is stopping


@pytest.mark.parametrize(
    ("given", "checks"),
    [
        ({}, 3),
        ({"val_check_interval": 1}, 12),
        ({"val_check_interval": 2}, 6),
        ({"val_check_interval": 0.5}, 6),
        ({"val_check_interval": 1.0}, 3),
        ({"val_check_interval": 5, "check_val_every_n_epoch": None}, 2),
        ({"check_val_every_n_epoch": 2}, 1),
        ({"accumulate_grad_batches": 3}, 3),
    ],
)
def test_each_validation_is_judged_once(given: dict[str, Any], checks: int) -> None:
    stopping = EarlyStopping("val_loss", patience=99)
    fit(stopping, Scripted([1.0]), **({"max_epochs": 3} | given))
    assert stopping.wait_count == checks - 1  # the first score is an improvement on nothing


def test_a_score_that_is_not_measured_again_counts_once() -> None:
    stopping = EarlyStopping("val_loss", patience=99, check_on_train_epoch_end=True, strict=False, check_finite=False)
    with pytest.warns(UserWarning, match="no 'val_loss' was logged"):
        fit(stopping, Scripted([1.0, math.nan, math.nan]), max_epochs=9, check_val_every_n_epoch=3)
    assert stopping.wait_count == 2


class Counting(BoringModule):
    """Logs the number of each batch."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("number", float(batch_idx), on_step=True, on_epoch=False)
        return self.loss(batch)


def test_batches_of_one_accumulation_window_are_measurements_of_their_own() -> None:
    stopping = EarlyStopping("number", patience=99)
    fit(stopping, Counting(batches={"train": 8}), max_epochs=1, val_check_interval=1, accumulate_grad_batches=4)
    assert stopping.wait_count == 7


@pytest.mark.parametrize("monitor", ["train_loss", "train_loss_step", "train_loss_epoch", "logged_late"])
@pytest.mark.parametrize(
    "given", [{}, {"limit_val_batches": 0}, {"limit_val_batches": 0, "check_val_every_n_epoch": 2}]
)
def test_metrics_of_training_can_be_monitored(monitor: str, given: dict[str, Any]) -> None:
    class Both(Scripted):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def on_train_epoch_end(self) -> None:
            self.log("logged_late", 1.0)

    stopping = EarlyStopping(monitor, patience=1, min_delta=1e6)
    trainer = fit(stopping, Both(), **given)
    assert trainer.current_epoch == 2


def test_a_module_without_an_optimizer_is_judged_too() -> None:
    class Searching(Scripted):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("found", 1.0, on_epoch=True, on_step=False)

        def configure_optimizers(self) -> None:
            return None

    trainer = fit(EarlyStopping("found", patience=2), Searching())
    assert trainer.current_epoch == 3


def test_the_metric_of_one_of_several_dataloaders() -> None:
    class Several(Scripted):
        def val_dataloader(self) -> Any:
            return [super().val_dataloader(), super().val_dataloader()]

        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
            self.log("val_loss", [-float(self.validations), 1.0][dataloader_idx])

    assert fit(EarlyStopping("val_loss/dataloader_idx_0", patience=2), Several()).current_epoch == 10
    assert fit(EarlyStopping("val_loss/dataloader_idx_1", patience=2), Several()).current_epoch == 3


def test_several_may_watch_one_metric_and_the_first_to_decide_stops() -> None:
    patient, threshold = EarlyStopping("val_loss", patience=5), EarlyStopping("val_loss", stopping_threshold=0.5)
    threshold.name = "good enough"
    trainer = trainer_with(patient, threshold)
    trainer.fit(Scripted([1.0, 0.4]))
    assert trainer.current_epoch == 2
    assert (str(patient.stopping_reason), str(threshold.stopping_reason)) == ("not_stopped", "stopping_threshold")


@pytest.mark.parametrize(
    ("arguments", "given", "at_step"),
    [({}, {}, 4), ({}, {"val_check_interval": 2}, 2), ({}, {"limit_val_batches": 0}, 4)],
)
def test_a_misspelt_monitor_is_an_error_at_the_first_check(
    arguments: dict[str, Any], given: dict[str, Any], at_step: int
) -> None:
    trainer = trainer_with(EarlyStopping("train_los", **arguments), **given)
    with pytest.raises(MisconfigurationException) as error:
        trainer.fit(Scripted())
    assert trainer.global_step == at_step
    assert "EarlyStopping(monitor='train_los'): no 'train_los' was logged. There are: train_loss" in str(error.value)
    assert "Did you mean 'train_loss'?" in str(error.value)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "or check when it is: check_on_train_epoch_end=False."),
        ({"limit_val_batches": 0}, "or validate, which this fit does not."),
    ],
)
def test_what_to_do_about_a_missing_metric_is_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        trainer_with(EarlyStopping("accuracy"), **given).fit(Scripted())
    assert str(error.value).endswith(f"Log it with self.log('accuracy', ...), monitor one that is there, {told}")


def test_where_it_is_not_strict_one_warning_is_all() -> None:
    stopping = EarlyStopping("nothing", strict=False)
    with pytest.warns(UserWarning, match="no 'nothing' was logged") as warned:
        trainer = fit(stopping, Scripted(), max_epochs=3)
    assert len(warned) == 1
    assert trainer.current_epoch == 3


def test_it_may_decide_again_where_a_minimum_was_not_reached() -> None:
    """It asks to stop after the second epoch; three are the minimum, and by then the score has improved."""
    stopping = EarlyStopping("val_loss", patience=1)
    trainer = fit(stopping, Scripted([2.0, 2.0, 1.0, 0.5, 0.5]), min_epochs=3)
    assert trainer.current_epoch == 5
    assert stopping.stopped_epoch == 4


def test_what_another_asked_for_is_not_withdrawn() -> None:
    """Both ask after the second epoch; one changes its mind after the third, the other does not."""
    steady, fickle = EarlyStopping("train_loss", patience=1, min_delta=1e6), EarlyStopping("val_loss", patience=1)
    for order in ([steady, fickle], [fickle, steady]):
        trainer = trainer_with(*order, min_epochs=4)
        trainer.fit(Scripted([2.0, 2.0, 1.0, 0.5, 0.25]))
        assert trainer.current_epoch == 4
        assert str(fickle.stopping_reason) == "not_stopped"


@pytest.mark.parametrize("given", [{"min_epochs": 4}, {"min_steps": 13}])
def test_minimums_are_kept(given: dict[str, Any]) -> None:
    trainer = fit(EarlyStopping("val_loss", patience=1), Scripted([1.0]), **given)
    assert trainer.current_epoch == 4


def test_a_second_fit_starts_clean() -> None:
    stopping = EarlyStopping("val_loss", patience=1)
    trainer = trainer_with(stopping)
    for _ in range(2):
        trainer.fit_loop.epoch = 0
        trainer.fit(Scripted([1.0]))
        assert (trainer.current_epoch, stopping.wait_count, stopping.stopped_epoch) == (2, 1, 1)


def test_nothing_is_judged_in_the_sanity_check_in_evaluation_and_in_a_quick_run() -> None:
    stopping = EarlyStopping("nothing at all")
    trainer = trainer_with(stopping, fast_dev_run=True)
    trainer.fit(Scripted())
    trainer.validate(Scripted(), verbose=False)
    trainer = trainer_with(EarlyStopping("val_loss", check_on_train_epoch_end=False), max_epochs=1)
    trainer.validate(Scripted([math.nan]), verbose=False)
    assert stopping.wait_count == 0
    assert not trainer.should_stop


def test_a_resumed_run_goes_on_waiting() -> None:
    scores = [3.0, 4.0, 4.0, 4.0, 4.0]
    first, resumed = EarlyStopping("val_loss", patience=4), EarlyStopping("val_loss", patience=4)
    trainer = trainer_with(first, max_epochs=3)
    trainer.fit(Scripted(scores))
    trainer.save_checkpoint("stopped.ckpt")
    second = trainer_with(resumed)
    second.fit(Scripted(scores[3:]), ckpt_path="stopped.ckpt")
    assert (second.current_epoch, resumed.wait_count, float(resumed.best_score)) == (5, 4, 3.0)
    assert resumed.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED


class SaveThenCut(Callback):
    """Saves where the stop has been asked for, when all have had the validation's end, and cuts the run there."""

    position = "checkpoint"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop:
            trainer.plan.when_done(lambda: self.save(trainer))

    def save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint("asked.ckpt")
        raise KeyboardInterrupt


WITHIN = {"val_check_interval": 2, "num_sanity_val_steps": 0}


@pytest.mark.parametrize("minimum", [{}, {"min_epochs": 3}])
def test_a_run_that_was_asked_to_stop_ends_as_it_would_have_when_it_is_resumed(minimum: dict[str, Any]) -> None:
    scores = [3.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    straight = fit(EarlyStopping("val_loss", patience=1), Scripted(scores), **WITHIN, **minimum)
    with pytest.raises(KeyboardInterrupt):
        trainer_with(EarlyStopping("val_loss", patience=1), SaveThenCut(), **WITHIN, **minimum).fit(Scripted(scores))
    stopping = EarlyStopping("val_loss", patience=1)
    resumed = trainer_with(stopping, **WITHIN, **minimum)
    resumed.fit(Scripted(scores[3:]), ckpt_path="asked.ckpt")
    assert (resumed.current_epoch, resumed.global_step) == (straight.current_epoch, straight.global_step)
    assert (resumed.current_epoch, resumed.global_step) == ((3, 12) if minimum else (2, 6))
    assert resumed.early_stopping_callback is stopping
    assert stopping.state_dict() == straight.early_stopping_callback.state_dict()  # type: ignore[union-attr]


def test_a_run_that_was_asked_to_stop_goes_on_with_more_patience(caplog: pytest.LogCaptureFixture) -> None:
    trainer = fit(EarlyStopping("val_loss", patience=1), Scripted([3.0, 4.0]))
    trainer.save_checkpoint("stopped.ckpt")
    more = EarlyStopping("val_loss", patience=3)
    resumed = trainer_with(more)
    resumed.fit(Scripted([4.0]), ckpt_path="stopped.ckpt")
    assert (trainer.current_epoch, resumed.current_epoch, more.wait_count, more.stopped_epoch) == (2, 4, 3, 3)
    again = trainer_with(EarlyStopping("val_loss", patience=1))
    with caplog.at_level(logging.INFO, logger="leyden"):
        again.fit(Scripted([4.0]), ckpt_path="stopped.ckpt")
    assert again.current_epoch == 2
    assert "The run that is resumed was stopped by EarlyStopping(monitor='val_loss'): val_loss = 4 is" in caplog.text


def test_the_state_survives_the_round_trip() -> None:
    first, second = EarlyStopping("val_loss", patience=1), EarlyStopping("val_loss", patience=1)
    fit(first, Scripted([1.0]))
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED
    assert pickle.loads(pickle.dumps(first)).state_dict() == first.state_dict()


@pytest.mark.parametrize(("monitor", "mode"), [("loss", "max"), ("val_loss", "min")])
def test_scores_by_another_metric_or_mode_are_not_taken_over(monitor: str, mode: Literal["min", "max"]) -> None:
    first, second = EarlyStopping("val_loss", mode="max"), EarlyStopping(monitor, mode=mode)
    fit(first, Scripted([9.0]), max_epochs=2)
    afresh = second.state_dict()
    with pytest.warns(UserWarning, match="starts afresh: the best score of the checkpoint was by monitor='val_loss'"):
        second.load_state_dict(first.state_dict())
    assert second.state_dict() == afresh


def test_the_state_of_a_lightning_checkpoint_is_understood() -> None:
    stopping = EarlyStopping("val_loss")
    stopping.load_state_dict({"wait_count": 2, "stopped_epoch": 0, "best_score": 0.5, "patience": 3})
    assert (stopping.wait_count, float(stopping.best_score), stopping.patience) == (2, 0.5, 3)


def test_it_says_what_it_sees(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="leyden"):
        fit(EarlyStopping("val_loss", patience=2, verbose=True), Scripted([3.0, 2.0, 2.5]))
    assert [record.message for record in caplog.records if "val_loss" in record.message] == [
        "val_loss improved to 3",
        "val_loss improved to 2 from 3",
        "val_loss = 2.5 did not improve on 2 (1/2)",
        "val_loss = 2.5 is the last of 2 checks that did not improve on 2",
    ]
