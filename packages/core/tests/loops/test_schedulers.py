"""When learning-rate schedulers step: by step, by epoch, on a plateau, with a frequency; and with which metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, ReduceLROnPlateau

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.callbacks import OnExceptionCheckpoint


class Note:
    """A scheduler of one's own that writes down when it is stepped, and with what."""

    def __init__(self, module: Scheduled) -> None:
        self.module = module

    def step(self, metric: Any = None) -> None:
        trainer = self.module.trainer
        value = "" if metric is None else f" with {float(metric):g}"
        self.module.events.append(f"scheduler {trainer.current_epoch}/{trainer.global_step}{value}")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Scheduled(LightningModule):
    """Logs how many batches were trained on; `settings` is the scheduler's dict but for the scheduler."""

    def __init__(self, make: Callable[[Scheduled], Any] = Note, /, **settings: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.make, self.settings = make, settings
        self.events: list[str] = []
        self.trained = self.validated = 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.trained += 1
        self.events.append(f"train {batch_idx}")
        self.log("trained", float(self.trained), on_step=True, on_epoch=False)
        loss: Tensor = self.layer(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.events.append("validate")
        self.log("val", float(self.trained))

    def configure_optimizers(self) -> Any:
        self.optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return {"optimizer": self.optimizer, "lr_scheduler": {"scheduler": self.make(self), **self.settings}}


def fit(
    module: LightningModule, batches: int = 3, *, val: bool = False, ckpt_path: Any = None, **arguments: Any
) -> Trainer:
    arguments = {"max_epochs": 2, "num_sanity_val_steps": 0, **arguments}
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    trainer.fit(module, [torch.ones(1, 1)] * batches, [torch.ones(1, 1)] if val else None, ckpt_path=ckpt_path)
    return trainer


# -- when ---------------------------------------------------------------------------------------------------------


def test_by_step_it_follows_each_optimizer_step() -> None:
    module = Scheduled(interval="step")
    fit(module, 3, accumulate_grad_batches=2)
    assert module.events == [
        *("train 0", "train 1", "scheduler 0/1", "train 2", "scheduler 0/2"),
        *("train 0", "train 1", "scheduler 1/3", "train 2", "scheduler 1/4"),
    ]


def test_by_step_it_waits_where_no_step_was_taken() -> None:
    class Skipping(Scheduled):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    module = Skipping(interval="step", frequency=2)
    fit(module, 3)
    assert module.events == ["train 0", "train 2", "scheduler 0/2", "train 0", "train 2", "scheduler 1/4"]


def test_by_epoch_it_follows_the_last_step_of_the_epoch() -> None:
    module = Scheduled()
    fit(module, 2, val=True)
    assert module.events == [
        *("train 0", "train 1", "scheduler 0/2", "validate"),
        *("train 0", "train 1", "scheduler 1/4", "validate"),
    ]


def test_on_a_plateau_by_epoch_it_waits_for_the_validation() -> None:
    module = Scheduled(reduce_on_plateau=True, monitor="val")
    fit(module, 2, val=True)
    assert module.events == [
        *("train 0", "train 1", "validate", "scheduler 0/2 with 2"),
        *("train 0", "train 1", "validate", "scheduler 1/4 with 4"),
    ]


def test_on_a_plateau_by_step_it_waits_for_the_validation_after_that_step() -> None:
    module = Scheduled(reduce_on_plateau=True, monitor="trained", interval="step")
    fit(module, 2, val=True, val_check_interval=1, max_epochs=1)
    assert module.events == [
        *("train 0", "validate", "scheduler 0/1 with 1"),
        *("train 1", "validate", "scheduler 0/2 with 2"),
    ]


@settings(max_examples=30, deadline=None)
@given(
    batches=st.integers(1, 5),
    epochs=st.integers(1, 4),
    frequency=st.integers(1, 4),
    interval=st.sampled_from(["step", "epoch"]),
    plateau=st.booleans(),
)
def test_the_frequency_counts_steps_or_epochs_of_the_whole_run(
    batches: int, epochs: int, frequency: int, interval: str, plateau: bool
) -> None:
    monitor = {"reduce_on_plateau": True, "monitor": "trained"} if plateau else {}
    module = Scheduled(interval=interval, frequency=frequency, **monitor)
    fit(module, batches, max_epochs=epochs)
    steps = range(1, batches * epochs + 1) if interval == "step" else range(batches, batches * epochs + 1, batches)
    expected = [step for count, step in enumerate(steps, start=1) if count % frequency == 0]
    stepped = [event for event in module.events if event.startswith("scheduler")]
    values = [f" with {step}" if plateau else "" for step in expected]
    assert stepped == [
        f"scheduler {(step - 1) // batches}/{step}{value}" for step, value in zip(expected, values, strict=True)
    ]


def test_an_epoch_cut_short_steps_no_epoch_scheduler() -> None:
    module = Scheduled()
    fit(module, 4, max_epochs=-1, max_steps=6)
    assert [event for event in module.events if "scheduler" in event] == ["scheduler 0/4"]


# -- torch's own schedulers, against a loop by hand ---------------------------------------------------------------


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_the_rates_are_those_of_a_loop_by_hand(interval: str) -> None:
    class Rates(Scheduled):
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
            self.events.append(str(self.optimizer.param_groups[0]["lr"]))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss: Tensor = self.layer(batch).sum()
            return loss

    module = Rates(lambda module: ExponentialLR(module.optimizer, gamma=0.5), interval=interval)
    fit(module, 2)
    expected = {"step": ["1.0", "0.5", "0.25", "0.125"], "epoch": ["1.0", "1.0", "0.5", "0.5"]}
    assert module.events == expected[interval]


class Halving(Scheduled):
    """Steps the scheduler itself at the epoch's end where optimisation is manual; is cut there if `cut` says so."""

    def __init__(self, *, manual: bool, cut: str = "", interval: str = "epoch") -> None:
        super().__init__(lambda module: ExponentialLR(module.optimizer, 0.5), interval=interval)
        self.automatic_optimization, self.cut = not manual, cut

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss: Tensor = self.layer(batch).sum()
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.cut == "batch":
            raise KeyboardInterrupt

    def on_train_epoch_end(self) -> None:
        if self.cut == "epoch":
            raise KeyboardInterrupt
        if not self.automatic_optimization:
            self.lr_schedulers().step()


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("cut", ["batch", "epoch"])
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_step_that_the_cut_run_took_is_no_step_that_torch_misses(
    tmp_path: Path, manual: bool, cut: str, interval: str
) -> None:
    """Its warning, an error here, would be that the scheduler is stepped before the optimizer."""
    with pytest.raises(KeyboardInterrupt):
        fit(Halving(manual=manual, cut=cut, interval=interval), 1, callbacks=[OnExceptionCheckpoint(tmp_path)])
    resumed = Halving(manual=manual, interval=interval)
    fit(resumed, 1, ckpt_path=tmp_path / "on_exception.ckpt")
    assert resumed.optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("manual", [False, True])
def test_nor_is_one_that_the_gradient_scaler_leaves_out(manual: bool) -> None:
    class Overflowing(Halving):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            super().backward(loss * math.inf if self.current_epoch == 0 else loss, *args, **kwargs)

    module = Overflowing(manual=manual)
    trainer = fit(module, 2, precision="16-mixed")
    assert trainer.global_step == 2
    assert module.optimizer.param_groups[0]["lr"] == 0.25


def test_reduce_on_plateau_sees_the_monitored_values() -> None:
    class Plateau(Scheduled):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.log("flat", 1.0, on_epoch=True)
            loss: Tensor = self.layer(batch).sum()
            return loss

    module = Plateau(lambda module: ReduceLROnPlateau(module.optimizer, factor=0.1, patience=1), monitor="flat")
    fit(module, 1, max_epochs=4)
    assert module.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_an_own_lr_scheduler_step_replaces_the_default() -> None:
    class Own(Scheduled):
        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            self.events.append(f"{type(scheduler).__name__} {metric}")

    module = Own(interval="step")
    fit(module, 1)
    assert module.events == ["train 0", "Note None", "train 0", "Note None"]


def test_several_schedulers_of_one_optimizer_keep_their_own_time() -> None:
    class Both(Scheduled):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            rates: list[LRScheduler] = [ExponentialLR(optimizer, 0.5), ExponentialLR(optimizer, 0.1)]
            return [optimizer], [{"scheduler": rates[0], "interval": "step"}, rates[1]]

    module = Both()
    trainer = fit(module, 3, max_epochs=1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5**3 * 0.1)
    assert len(module.lr_schedulers()) == 2


# -- a metric that is not there -----------------------------------------------------------------------------------


def test_a_missing_metric_is_an_error_that_names_what_there_is() -> None:
    module = Scheduled(reduce_on_plateau=True, monitor="train")
    with pytest.raises(MisconfigurationException) as caught:
        fit(module, 1)
    message = str(caught.value)
    assert "the scheduler Note monitors 'train' each epoch" in message
    assert "Logged so far: trained." in message
    assert "Did you mean 'trained'?" in message
    assert "strict=False" in message


def test_a_missing_metric_that_is_not_strict_is_a_warning_and_no_step() -> None:
    module = Scheduled(reduce_on_plateau=True, monitor="val", strict=False)
    with pytest.warns(UserWarning, match="monitors 'val' each epoch, which has not been logged"):
        fit(module, 1, val=True, check_val_every_n_epoch=2, max_epochs=3)
    assert [event for event in module.events if "scheduler" in event] == [
        "scheduler 1/2 with 2",
        "scheduler 2/3 with 2",  # the latest value there is
    ]
