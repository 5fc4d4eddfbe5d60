"""The Trainer's arguments: each out of its range is an error that names it, the value seen and what is expected."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from leyden import Callback, MisconfigurationException, Trainer
from leyden.errors import UnknownArgumentError
from leyden.loggers import CSVLogger, Logger
from leyden.settings import Settings


def trainer(**settings: Any) -> Trainer:
    return Trainer(**({"discover_callbacks": False} | settings))


def error_of(**settings: Any) -> str:
    with pytest.raises(MisconfigurationException) as raised:
        trainer(**settings)
    return str(raised.value)


COUNTS = {
    "max_epochs": -1, "min_epochs": 0, "max_steps": -1, "min_steps": 0, "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1, "log_every_n_steps": 0, "reload_dataloaders_every_n_epochs": 0,
    "accumulate_grad_batches": 1,
}  # fmt: skip
LIMITS = [
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches"
]  # fmt: skip
FLAGS = [
    "inference_mode", "use_distributed_sampler", "detect_anomaly", "barebones", "sync_batchnorm", "discover_callbacks"
]  # fmt: skip
SWITCHES = ["enable_checkpointing", "enable_progress_bar", "enable_model_summary", "benchmark"]
OUT_OF_RANGE: list[tuple[str, Any, str]] = [
    *((name, value, f"an int >= {low}") for name, low in COUNTS.items() for value in (low - 1, 1.5, "3", True)),
    *((name, value, "a fraction of them") for name in LIMITS for value in (-1, -0.1, 1.1, math.nan, "half", True)),
    *(("val_check_interval", value, "a fraction of the epoch") for value in (0, 0.0, -1, 1.5, "1", True)),
    *((name, value, "True or False") for name in FLAGS for value in (None, 1, "yes")),
    *((name, value, "True, False or None") for name in SWITCHES for value in (1, "yes")),
    *(("gradient_clip_val", value, "a number >= 0") for value in (-1, math.nan, "1", True)),
    ("gradient_clip_algorithm", "l2", "'norm', 'value'"),
    ("deterministic", "yes", "'warn'"),
    *(("fast_dev_run", value, "a number of batches >= 0") for value in (-1, 1.5, "yes", None)),
    ("accumulate_grad_batches", {0: 2}, "GradientAccumulationScheduler"),
    ("precision", "33", "one of 64-true, 32-true"),
    ("precision", "16-mix", "Did you mean '16-mixed'?"),
    ("accelerator", "cdua", "Did you mean 'cuda'?"),
    ("accelerator", 1, "one of auto, cpu"),
    ("devices", 0, "a number of devices >= 1"),
    ("devices", "two", "a number of devices >= 1"),
    ("devices", [0, 0], "each once"),
    ("devices", 2, "once for each process, but this is a test"),
    ("num_nodes", 2, "a script starts no processes on other machines"),
    ("strategy", "ddpp", "'auto'"),
    ("profiler", "simpel", "Did you mean 'simple'?"),
    ("logger", "csv", "a Logger, a list of them"),
    ("default_root_dir", 3, "the path of a folder"),
]


@pytest.mark.parametrize(("name", "value", "expected"), OUT_OF_RANGE)
def test_an_argument_out_of_its_range(name: str, value: Any, expected: str) -> None:
    message = error_of(**{name: value})
    assert f"Trainer({name}={value!r}" in message
    assert expected in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_epochs": 3, "max_epochs": 2}, ["min_epochs=3, max_epochs=2", "lower min_epochs"]),
        ({"min_steps": 3, "max_steps": 2}, ["min_steps=3, max_steps=2", "lower min_steps"]),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": None}, ["val_check_interval=0.5", "must be an int"]),
        ({"logger": [CSVLogger("x"), "tb"]}, ["'tb' is a str", "expected a Logger"]),
        ({"max_time": "soon"}, ["max_time='soon'", "DD:HH:MM:SS"]),
        ({"max_time": timedelta(-1)}, ["max_time=datetime.timedelta(days=-1)", "not negative"]),
        *(
            ({"barebones": True, name: value}, [f"barebones=True, {name}={value!r}", "leave"])
            for name, value in {
                "logger": True, "profiler": "simple", "enable_checkpointing": True, "enable_progress_bar": True,
                "enable_model_summary": True, "num_sanity_val_steps": 1, "fast_dev_run": True, "detect_anomaly": True,
                "log_every_n_steps": 5,
            }.items()
        ),
    ],
)  # fmt: skip
def test_arguments_that_contradict_each_other(settings: dict[str, Any], words: list[str]) -> None:
    message = error_of(**settings)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_epoch", " Did you mean 'max_epochs'?"),
        ("callback", " Did you mean 'callbacks'?"),
        ("val_check_intervall", " Did you mean 'val_check_interval'?"),
        ("gpus", ' It is an argument of Lightning; instead, write accelerator="gpu", devices=...'),
        ("colour", ""),
    ],
)
def test_an_unknown_argument_is_a_type_error_with_the_nearest_name(name: str, hint: str) -> None:
    with pytest.raises(TypeError) as raised:
        trainer(**{name: 1})
    assert isinstance(raised.value, MisconfigurationException)
    assert str(raised.value) == f"Trainer() has no argument {name!r}.{hint}"


@pytest.mark.parametrize(
    ("given", "form"), [(1, "max_epochs=..."), ([Callback()], "callbacks=..."), ({"max_epochs": 1}, "name=...")]
)
def test_arguments_are_given_by_keyword_only(given: Any, form: str) -> None:
    with pytest.raises(UnknownArgumentError, match="by keyword only") as raised:
        Trainer(given)
    assert f"Trainer({form})" in str(raised.value)


def test_what_is_left_out_has_its_default() -> None:
    settings = Settings()
    assert (settings.max_epochs, settings.max_steps, settings.min_epochs, settings.min_steps) == (1000, -1, 0, 0)
    assert (settings.num_sanity_val_steps, settings.log_every_n_steps) == (2, 50)
    assert settings.gradient_clip_val is None


def test_another_limit_takes_the_place_of_the_default_number_of_epochs() -> None:
    assert Settings(max_steps=5).max_epochs == Settings(max_time="00:00:01:00").max_epochs == -1
    assert Settings(min_steps=5).min_epochs == 1


def test_clipping_by_zero_is_no_clipping() -> None:
    assert Settings(gradient_clip_val=0).gradient_clip_val is None
    assert Settings(gradient_clip_val=0.5).gradient_clip_val == 0.5


def test_minus_one_means_all_or_no_limit() -> None:
    settings = Settings(num_sanity_val_steps=-1, max_epochs=-1, min_epochs=3)
    assert settings.sanity_batches == math.inf
    assert settings.max_epochs == -1


@pytest.mark.parametrize(("given", "batches"), [(True, 1), (3, 3)])
def test_fast_dev_run_shortens_everything_and_writes_nothing(given: bool | int, batches: int) -> None:
    short = trainer(fast_dev_run=given, max_epochs=5, val_check_interval=0.5, logger=CSVLogger("x"))
    settings = short.settings
    assert (settings.max_epochs, settings.max_steps, settings.num_sanity_val_steps) == (1, batches, 0)
    for name in LIMITS[:4]:
        assert getattr(short, name) == batches
    assert (settings.val_check_interval, settings.log_every_n_steps) == (None, 1)
    assert [type(logger).__name__ for logger in short.loggers] == ["DummyLogger"]


def test_barebones_strips_what_is_not_the_loop() -> None:
    bare = trainer(barebones=True)
    assert (bare.loggers, bare.num_sanity_val_steps, bare.log_every_n_steps) == ([], 0, 0)
    assert bare.settings.enable_progress_bar is bare.settings.enable_checkpointing is False


def test_one_logger_or_callback_needs_no_list() -> None:
    logger, callback = CSVLogger("x"), Callback()
    made = trainer(logger=logger, callbacks=callback)
    assert (made.loggers, made.callbacks) == ([logger], [callback])
    several: list[Logger] = [logger, CSVLogger("y")]
    assert trainer(logger=iter(several)).loggers == several


def test_what_is_assigned_later_is_checked_too_and_changes_nothing_where_it_is_wrong() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, max_epochs=3)
    for name, value, expected in (
        ("max_epochs", "many", "an int"),
        ("min_epochs", 4, "the minimum is above the maximum"),
        ("max_steps", -2, "an int >= -1"),
        ("limit_train_batches", 1.5, "a number of batches"),
        ("val_check_interval", 0, "a number of training batches"),
        ("gradient_clip_val", -1.0, "a number >= 0"),
        ("gradient_clip_algorithm", "l2", "'norm', 'value' or None"),
        ("log_every_n_steps", None, None),
    ):
        before = getattr(trainer, name)
        if expected is not None:
            with pytest.raises(MisconfigurationException, match=rf"Trainer\({name}=.*{expected}|{expected}"):
                setattr(trainer, name, value)
            assert getattr(trainer, name) == before
        else:
            setattr(trainer, name, value)
            assert getattr(trainer, name) == 50


def test_what_is_assigned_later_is_resolved_as_at_first() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, max_epochs=3)
    trainer.overfit_batches = 2
    assert (trainer.limit_train_batches, trainer.limit_val_batches) == (2, 2)
    trainer.limit_val_batches = 0
    trainer.gradient_clip_val = 0.0
    assert trainer.limit_val_batches == 0
    assert not trainer.settings.gradient_clip_val
