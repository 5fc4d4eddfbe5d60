"""What can be read off a trainer, under the names users know: before, within and after its runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from leyden import Callback, LightningModule, Trainer
from leyden.callback import Checkpoint, LambdaCallback
from leyden.loggers import CSVLogger
from leyden.testing import BoringModule


def make(*callbacks: Callback, **settings: Any) -> Trainer:
    usual: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "discover_callbacks": False}
    return Trainer(**(usual | settings), callbacks=callbacks)


def read(trainer: Trainer, names: str) -> dict[str, Any]:
    return {name: getattr(trainer, name) for name in names.split()}


PROGRESS = "current_epoch global_step is_last_batch num_training_batches num_val_batches num_sanity_val_batches"
STAGES = "training sanity_checking validating testing predicting evaluating interrupted running"
PARTS = "model datamodule train_dataloader val_dataloaders test_dataloaders predict_dataloaders"


def test_before_any_run_everything_can_be_asked() -> None:
    trainer = make()
    assert read(trainer, PROGRESS) == {
        "current_epoch": 0, "global_step": 0, "is_last_batch": False, "num_training_batches": 0,
        "num_val_batches": [], "num_sanity_val_batches": [],
    }  # fmt: skip
    assert not any(read(trainer, STAGES).values())
    assert set(read(trainer, PARTS).values()) == {None}
    assert (trainer.num_test_batches, trainer.num_predict_batches) == ([], [])
    assert (trainer.optimizers, trainer.lr_scheduler_configs, trainer.callbacks) == ([], [], [])
    assert (trainer.should_stop, trainer.received_sigterm, trainer.ckpt_path) == (False, False, None)
    assert trainer.callback_metrics == trainer.logged_metrics == trainer.progress_bar_metrics == {}
    assert (trainer.state.fn, trainer.state.stage, trainer.state.status) == (None, None, "initializing")
    assert trainer.default_root_dir == trainer.log_dir == os.getcwd()


def test_one_process_on_one_device() -> None:
    names = "accelerator precision num_devices device_ids num_nodes world_size global_rank local_rank node_rank"
    assert read(make(), f"{names} is_global_zero") == {
        "accelerator": "cpu", "precision": "32-true", "num_devices": 1, "device_ids": [0], "num_nodes": 1,
        "world_size": 1, "global_rank": 0, "local_rank": 0, "node_rank": 0, "is_global_zero": True,
    }  # fmt: skip
    assert make().strategy.root_device == torch.device("cpu")


SETTINGS: dict[str, Any] = {
    "max_epochs": 7, "min_epochs": 2, "max_steps": 50, "min_steps": 3, "accumulate_grad_batches": 2,
    "gradient_clip_val": 0.5, "gradient_clip_algorithm": "value", "limit_train_batches": 3, "limit_val_batches": 0.5,
    "limit_test_batches": 1, "limit_predict_batches": 2, "fast_dev_run": False, "log_every_n_steps": 5,
    "check_val_every_n_epoch": 2, "val_check_interval": 3, "num_sanity_val_steps": 1, "default_root_dir": "runs",
    "reload_dataloaders_every_n_epochs": 1, "barebones": False,
}  # fmt: skip


def test_every_setting_can_be_read_and_those_of_a_run_be_changed_between_runs() -> None:
    trainer = make(**SETTINGS)
    assert read(trainer, " ".join(SETTINGS)) == SETTINGS
    assert trainer.profiler is None
    trainer = make(max_epochs=1)
    trainer.fit(BoringModule())
    trainer.max_epochs = 3
    trainer.fit(trainer.lightning_module)
    assert (trainer.current_epoch, trainer.global_step) == (3, 6)


def seen_in(hook: str, names: str, fn: str = "fit", **settings: Any) -> list[dict[str, Any]]:
    """What the properties say each time a hook is called."""
    seen: list[dict[str, Any]] = []
    look: Callable[..., None] = lambda trainer, *args: seen.append(read(trainer, names))  # noqa: E731
    getattr(make(LambdaCallback(**{hook: look}), **settings), fn)(BoringModule())
    return seen


def test_progress_within_a_fit() -> None:
    assert [tuple(one.values()) for one in seen_in("on_train_batch_end", PROGRESS)] == [
        (0, 1, False, 2, [1], [1]), (0, 2, True, 2, [1], [1]), (1, 3, False, 2, [1], [1]), (1, 4, True, 2, [1], [1]),
    ]  # fmt: skip
    assert seen_in("on_train_epoch_end", "current_epoch global_step") == [
        {"current_epoch": 0, "global_step": 2}, {"current_epoch": 1, "global_step": 4},
    ]  # fmt: skip
    assert seen_in("on_fit_end", "current_epoch global_step") == [{"current_epoch": 2, "global_step": 4}]


@pytest.mark.parametrize(
    ("hook", "fn", "stages"),
    [
        ("setup", "fit", "training"),
        ("on_sanity_check_start", "fit", "sanity_checking evaluating"),
        ("on_train_epoch_start", "fit", "training"),
        ("on_validation_batch_end", "fit", "validating evaluating"),
        ("on_validation_start", "validate", "validating evaluating"),
        ("on_test_batch_end", "test", "testing evaluating"),
        ("on_predict_batch_end", "predict", "predicting"),
        ("teardown", "test", "testing evaluating"),
    ],
)
def test_the_stage_within_a_run(hook: str, fn: str, stages: str) -> None:
    last = seen_in(hook, STAGES, fn, max_epochs=1)[0]
    if hook == "on_validation_batch_end":
        last = seen_in(hook, STAGES, fn, max_epochs=1, num_sanity_val_steps=0)[0]
    assert {name for name, true in last.items() if true} == {"running", *stages.split()}


@pytest.mark.parametrize(("fn", "loop"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_batches_and_dataloaders_of_an_evaluation(fn: str, loop: str) -> None:
    trainer, module = make(), BoringModule()
    loaders = [module.test_dataloader(), module.val_dataloader()]
    getattr(trainer, fn)(module, loaders[0])
    assert (getattr(trainer, f"num_{loop}_batches"), getattr(trainer, f"{loop}_dataloaders")) == ([2], loaders[0])
    several = type("Several", (BoringModule,), {"validation_step": _step, "test_step": _step, "predict_step": _step})()
    getattr(trainer, fn)(several, loaders)
    assert (getattr(trainer, f"num_{loop}_batches"), getattr(trainer, f"{loop}_dataloaders")) == ([2, 1], loaders)
    assert trainer.state.fn == fn
    assert trainer.state.finished
    assert trainer.model is trainer.lightning_module is several


def _step(self: BoringModule, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
    return None


def test_parts_of_a_fit() -> None:
    trainer, module = make(), BoringModule()
    train, val = module.train_dataloader(), module.val_dataloader()
    trainer.fit(module, train, val)
    assert (trainer.model, trainer.datamodule) == (module, None)
    assert (trainer.train_dataloader, trainer.val_dataloaders) == (train, val)
    assert [type(optimizer).__name__ for optimizer in trainer.optimizers] == ["SGD"]
    assert set(trainer.callback_metrics) == {"train_loss", "val_loss"}
    assert trainer.callback_metrics.step_of("val_loss") == 4
    assert (trainer.fit_loop.epoch_progress.current.completed, trainer.validate_loop.batches_seen) == (2, 0)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, 4), ({"max_epochs": 5}, 10), ({"accumulate_grad_batches": 2}, 2), ({"max_steps": 3}, 3),
        ({"limit_train_batches": 1}, 2), ({"max_epochs": -1}, math.inf), ({"max_epochs": -1, "max_steps": 9}, 9),
    ],
)  # fmt: skip
def test_the_steps_to_expect_are_known_to_configure_optimizers(settings: dict[str, Any], steps: float) -> None:
    seen: list[float] = []

    class Net(BoringModule):
        def configure_optimizers(self) -> Any:
            seen.append(self.trainer.estimated_stepping_batches)
            self.trainer.should_stop = True
            return super().configure_optimizers()

    make(**settings).fit(Net())
    assert seen == [steps]


def test_the_module_is_there_from_the_first_entry_point_on() -> None:
    trainer = make()
    with pytest.raises(AttributeError, match="no module yet; call fit"):
        _ = trainer.lightning_module
    module = BoringModule()
    trainer.validate(module, verbose=False)
    assert trainer.lightning_module is trainer.model is module


class Stops(Callback):
    role = "early_stopping"


class Bar(Callback):
    role = "progress_bar"


def test_callbacks_by_their_kinds() -> None:
    first, second, stops, bar = Checkpoint(), Checkpoint(), Stops(), Bar()
    trainer = make(first, stops, second, bar)
    assert trainer.callbacks == [stops, bar, first, second]
    assert (trainer.checkpoint_callback, trainer.checkpoint_callbacks) == (first, [first, second])
    assert (trainer.early_stopping_callback, trainer.early_stopping_callbacks) == (stops, [stops])
    assert trainer.progress_bar_callback is bar
    trainer.callbacks = []
    names = "checkpoint_callback early_stopping_callback progress_bar_callback"
    assert set(read(trainer, names).values()) == {None}


def test_callbacks_can_be_set() -> None:
    trainer, one, other = make(Callback()), Callback(), Callback()
    held = trainer.callbacks
    trainer.callbacks = [one, other]
    assert held == trainer.callbacks == [one, other]
    trainer.callbacks = one  # type: ignore[assignment]
    assert held == [one]
    trainer.callbacks += [other]
    assert held is trainer.callbacks
    assert held == [one, other]


def test_loggers_can_be_set_and_name_the_folder_of_the_run() -> None:
    first, second = CSVLogger("a"), CSVLogger("b")
    trainer = make(logger=[first, second])
    assert (trainer.logger, trainer.loggers, trainer.log_dir) == (first, [first, second], first.log_dir)
    trainer.logger = second
    assert trainer.loggers == [second]
    trainer.logger = None
    assert (trainer.logger, trainer.loggers, trainer.log_dir) == (None, [], os.getcwd())


def test_optimizers_that_a_callback_sets_are_those_that_train() -> None:
    def replace(trainer: Trainer, module: LightningModule) -> None:
        trainer.optimizers = [torch.optim.SGD(module.parameters(), lr=0.0)]

    module = BoringModule()
    before = module.layer.weight.detach().clone()
    make(LambdaCallback(on_fit_start=replace)).fit(module)
    assert torch.equal(module.layer.weight, before)


def test_should_stop_ends_the_fit_after_the_batch_and_is_forgotten_by_the_next() -> None:
    def stop(trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = True

    stops = LambdaCallback(on_train_batch_end=stop)
    trainer = make(stops)
    trainer.fit(BoringModule())
    assert (trainer.global_step, trainer.should_stop) == (1, True)
    trainer.callbacks.remove(stops)
    trainer.fit(trainer.lightning_module)
    assert (trainer.global_step, trainer.should_stop) == (3, False)
