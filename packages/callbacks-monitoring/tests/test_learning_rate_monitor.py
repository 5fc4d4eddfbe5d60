"""LearningRateMonitor in real, tiny trainings: names, steps, intervals, and what it does without a logger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, StepLR

from leyden import Callback, MisconfigurationException, Trainer
from leyden.loggers import Logger
from leyden.testing.models import BoringModule
from leyden_monitoring import LearningRateMonitor

Rows = list[tuple[int, dict[str, float]]]


class Notes(Logger):
    """Keeps what it is given, but for what the module logs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Rows = []

    @property
    def name(self) -> str:
        return "notes"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: round(value, 6) for name, value in metrics.items() if "loss" not in name and name != "epoch"}
        if values:
            self.rows.append((-1 if step is None else step, values))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Not looked at here."""


class Configured(BoringModule):
    """Trained by what `make` returns; with `manual` its optimizers are stepped by hand."""

    def __init__(self, make: Callable[[Any], Any], *, manual: bool = False) -> None:
        super().__init__(batches={"train": 4})
        self.make, self.automatic_optimization = make, not manual

    def configure_optimizers(self) -> Any:
        return self.make(self)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if not self.automatic_optimization:
            optimizers: Any = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()
        return loss


def run(
    make: Callable[[Any], Any],
    monitor: LearningRateMonitor | None = None,
    *callbacks: Callback,
    manual: bool = False,
    **settings: Any,
) -> tuple[Rows, LearningRateMonitor]:
    monitor, notes = monitor or LearningRateMonitor(), Notes()
    trainer = Trainer(
        accelerator="cpu",
        logger=notes,
        callbacks=[monitor, *callbacks],
        discover_callbacks=False,
        **({"max_epochs": 2, "log_every_n_steps": 2} | settings),
    )
    trainer.fit(Configured(make, manual=manual))
    return notes.rows, monitor


def adam(module: Any) -> Optimizer:
    return Adam(module.parameters(), lr=0.1)


def scheduled(**config: Any) -> Callable[[Any], Any]:
    def make(module: Any) -> Any:
        optimizer = adam(module)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": StepLR(optimizer, 1, gamma=0.1), **config}}

    return make


def split(module: Any, **options: Any) -> list[dict[str, Any]]:
    return [{"params": [module.layer.weight]}, {"params": [module.layer.bias], "lr": 0.5, **options}]


def test_constant_rate_is_logged_at_epochs_and_at_steps_of_logging() -> None:
    rows, monitor = run(adam)
    assert rows == [(step, {"lr-Adam": 0.1}) for step in (0, 1, 3, 4, 5, 7)]
    assert monitor.lrs == {"lr-Adam": [0.1] * 6}
    assert monitor.lr_sch_names == ["lr-Adam"]


def test_interval_of_the_scheduler() -> None:
    assert run(scheduled())[0] == [(0, {"lr-Adam": 0.1}), (4, {"lr-Adam": 0.01})]
    rows = run(scheduled(interval="step", name="mine"))[0]
    assert rows == [(1, {"mine": 0.01}), (3, {"mine": 0.0001}), (5, {"mine": 1e-6}), (7, {"mine": 0.0})]


@pytest.mark.parametrize(("interval", "steps"), [("step", [1, 3, 5, 7]), ("epoch", [0, 4])])
def test_interval_of_the_callback(interval: Any, steps: list[int]) -> None:
    rows, monitor = run(scheduled(), LearningRateMonitor(logging_interval=interval))
    assert [step for step, _ in rows] == steps
    assert len(monitor.lrs["lr-Adam"]) == len(steps)


def test_accumulation_logs_once_per_step() -> None:
    rows, _ = run(adam, LearningRateMonitor("step"), accumulate_grad_batches=2, log_every_n_steps=1)
    assert [step for step, _ in rows] == [0, 1, 2, 3]


def test_no_logging_steps() -> None:
    assert run(adam, LearningRateMonitor("step"), log_every_n_steps=0)[0] == []


def test_groups_momentum_and_weight_decay() -> None:
    monitor = LearningRateMonitor("epoch", log_momentum=True, log_weight_decay=True)
    rows, _ = run(lambda module: Adam(split(module, weight_decay=0.3, betas=(0.8, 0.9)), lr=0.1), monitor, max_epochs=1)
    assert rows == [
        (
            0,
            {
                "lr-Adam/pg1": 0.1,
                "lr-Adam/pg1-momentum": 0.9,
                "lr-Adam/pg1-weight_decay": 0.0,
                "lr-Adam/pg2": 0.5,
                "lr-Adam/pg2-momentum": 0.8,
                "lr-Adam/pg2-weight_decay": 0.3,
            },
        )
    ]
    assert monitor.last_momentum_values == {"lr-Adam/pg1-momentum": 0.9, "lr-Adam/pg2-momentum": 0.8}
    assert monitor.last_weight_decay_values["lr-Adam/pg2-weight_decay"] == 0.3


def test_momentum_of_sgd_and_of_optimizers_that_have_none() -> None:
    def make(module: Any) -> Any:
        return SGD([module.layer.weight], lr=0.1, momentum=0.7), torch.optim.Adagrad([module.layer.bias], lr=0.2)

    rows, _ = run(make, LearningRateMonitor("epoch", log_momentum=True), manual=True, max_epochs=1)
    values = {"lr-SGD": 0.1, "lr-SGD-momentum": 0.7, "lr-Adagrad": 0.2, "lr-Adagrad-momentum": 0.0}
    assert rows == [(0, values)]


def test_names_of_groups() -> None:
    def named(module: Any) -> Any:
        first, second = split(module, name="bias")
        return Adam([first, second], lr=0.1)

    assert run(named, max_epochs=1)[0][0] == (0, {"lr-Adam/pg1": 0.1, "lr-Adam/bias": 0.5})


def test_groups_with_one_name_cannot_be_told_apart() -> None:
    def twice(module: Any) -> Any:
        first, second = split(module, name="w")
        return Adam([first | {"name": "w"}, second], lr=0.1)

    with pytest.raises(MisconfigurationException, match="lr-Adam has several parameter groups named 'w'"):
        run(twice)


def test_several_optimizers_of_a_class_those_with_a_scheduler_first() -> None:
    def make(module: Any) -> Any:
        one, other = Adam([module.layer.weight], lr=0.1), Adam([module.layer.bias], lr=0.2)
        return [one, other], [StepLR(other, 1)]

    rows, _ = run(make, manual=True, max_epochs=1)
    assert rows == [
        (0, {"lr-Adam": 0.2, "lr-Adam-1": 0.1}),
        (1, {"lr-Adam-1": 0.1}),
        (3, {"lr-Adam-1": 0.1}),
    ]


def test_schedulers_of_one_name_and_several_on_one_optimizer() -> None:
    def make(module: Any) -> Any:
        one, other = Adam([module.layer.weight], lr=0.1), Adam([module.layer.bias], lr=0.2)
        named = [{"scheduler": StepLR(optimizer, 1), "name": "x"} for optimizer in (one, other)]
        return [one, other], [*named, StepLR(one, 5), StepLR(one, 6)]

    rows, _ = run(make, manual=True, max_epochs=1)
    assert rows == [(0, {"x": 0.1, "x-1": 0.2, "lr-Adam": 0.1})]


def test_scheduler_that_is_called_as_another_optimizer_would_be() -> None:
    def make(module: Any) -> Any:
        optimizers = [Adam([module.layer.weight], 0.1), Adam([module.layer.bias], 0.2), SGD(module.parameters(), 0.3)]
        return optimizers, [{"scheduler": ConstantLR(optimizers[2], 1.0), "name": "lr-Adam-1"}]

    rows, _ = run(make, LearningRateMonitor("epoch"), manual=True)
    assert rows[0] == (0, {"lr-Adam-1": 0.3, "lr-Adam": 0.1, "lr-Adam-2": 0.2})


def test_scheduler_of_the_users_own_making_without_an_optimizer() -> None:
    class Own:
        def step(self) -> None:
            """Changes nothing."""

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Takes nothing."""

    rows, _ = run(lambda module: ([adam(module)], [Own()]), LearningRateMonitor("epoch"), manual=False)
    assert rows == [(0, {"lr-Adam": 0.1}), (4, {"lr-Adam": 0.1})]


def test_groups_that_appear_later() -> None:
    class AddBias(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": [pl_module.layer.bias], "lr": torch.tensor(0.25)})

    monitor = LearningRateMonitor("step")
    rows, _ = run(lambda module: SGD([module.layer.weight], lr=0.1), monitor, AddBias())
    assert rows == [
        (1, {"lr-SGD": 0.1}),
        (3, {"lr-SGD": 0.1}),
        (5, {"lr-SGD/pg1": 0.1, "lr-SGD/pg2": 0.25}),
        (7, {"lr-SGD/pg1": 0.1, "lr-SGD/pg2": 0.25}),
    ]
    assert monitor.lrs == {"lr-SGD": [0.1, 0.1], "lr-SGD/pg1": [0.1, 0.1], "lr-SGD/pg2": [0.25, 0.25]}


def test_resumed_mid_epoch_it_goes_on_at_the_same_steps(tmp_path: Path) -> None:
    class SaveOnce(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 2 and trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "run.ckpt")

    run(adam, LearningRateMonitor("step"), SaveOnce())
    notes = Notes()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=notes,
        callbacks=[LearningRateMonitor("step")],
        discover_callbacks=False,
        log_every_n_steps=2,
    )
    trainer.fit(Configured(adam), ckpt_path=tmp_path / "run.ckpt")
    assert [step for step, _ in notes.rows] == [3, 5, 7]


def test_every_logger_gets_the_values_and_cannot_spoil_each_others() -> None:
    class Greedy(Notes):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            super().log_metrics(metrics, step)
            metrics.clear()

    loggers = [Greedy(), Notes()]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=loggers, callbacks=[LearningRateMonitor()], discover_callbacks=False
    )
    trainer.fit(Configured(adam))
    assert loggers[0].rows == loggers[1].rows == [(0, {"lr-Adam": 0.1})]


def test_no_optimizer_logs_nothing() -> None:
    with pytest.warns(UserWarning, match="returned no optimizer"):
        rows, monitor = run(lambda module: None)
    assert rows == []
    assert monitor.lrs == {}


def test_no_logger_is_an_error_before_the_optimizers_are_made() -> None:
    def never(module: Any) -> Any:
        raise AssertionError("came too far")

    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[LearningRateMonitor()], discover_callbacks=False)
    with pytest.raises(MisconfigurationException, match="LearningRateMonitor has nowhere to log to"):
        trainer.fit(Configured(never))
    assert not LearningRateMonitor().applies(trainer)


def test_without_a_logger_other_entry_points_and_fast_dev_run_work() -> None:
    monitor = LearningRateMonitor()
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[monitor], discover_callbacks=False)
    trainer.test(BoringModule(), verbose=False)
    quick = Trainer(accelerator="cpu", fast_dev_run=True, callbacks=[monitor], discover_callbacks=False)
    quick.fit(BoringModule())
    assert monitor.lrs["lr-SGD"][0] == 0.1


def test_wrong_arguments_are_all_named() -> None:
    arguments: dict[str, Any] = {"logging_interval": "batch", "log_momentum": 1, "log_weight_decay": None}
    with pytest.raises(MisconfigurationException) as caught:
        LearningRateMonitor(**arguments)
    assert str(caught.value).splitlines() == [
        "LearningRateMonitor(logging_interval='batch'): expected 'step', 'epoch' or None.",
        "LearningRateMonitor(log_momentum=1): expected True or False.",
        "LearningRateMonitor(log_weight_decay=None): expected True or False.",
    ]


@pytest.mark.parametrize(("at", "rows"), [(1, [1, 2, 3]), (2, [1, 2, 3]), (3, [2, 3])])
def test_resumed_in_the_last_hooks_of_a_batch_it_logs_each_window_once(
    tmp_path: Path, at: int, rows: list[int]
) -> None:
    class Cut(Callback):
        saves_on_exception = True

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.fit_loop.batches_seen == at and not trainer.ckpt_path:
                raise KeyboardInterrupt

        def on_exception(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "run.ckpt")

    settings: dict[str, Any] = {"accumulate_grad_batches": 2, "log_every_n_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        run(adam, LearningRateMonitor("step"), Cut(), **settings)
    notes = Notes()
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=notes, callbacks=[LearningRateMonitor("step"), Cut()],
        discover_callbacks=False, **settings,
    )  # fmt: skip
    trainer.fit(Configured(adam), ckpt_path=tmp_path / "run.ckpt")
    assert [step for step, _ in notes.rows] == rows


def test_the_latest_values_are_metrics_for_callbacks() -> None:
    monitor = LearningRateMonitor(logging_interval="step", log_momentum=True)
    trainer = Trainer(max_epochs=1, log_every_n_steps=1, logger=Notes(), callbacks=monitor, discover_callbacks=False)
    trainer.fit(BoringModule())
    assert float(trainer.callback_metrics["lr-SGD"]) == pytest.approx(0.1)
    assert float(trainer.callback_metrics["lr-SGD-momentum"]) == 0
    assert trainer.callback_metrics.step_of("lr-SGD") == 1, "the last of two steps was made with it"
    assert "lr-SGD" not in trainer.logged_metrics
