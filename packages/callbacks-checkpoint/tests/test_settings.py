"""The constructor: every argument that cannot work is told at once, with what would."""

from __future__ import annotations

import math
import os
from datetime import timedelta
from inspect import Parameter, signature
from typing import Any

import pytest

from leyden.errors import MisconfigurationException
from leyden_checkpoint import BasePredictionWriter, ModelCheckpoint, OnExceptionCheckpoint


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"dirpath": 3}, "dirpath=3: expected a folder's path"),
        ({"dirpath": ""}, "dirpath='': expected a folder's path"),
        ({"dirpath": "nowhere://a"}, "dirpath='nowhere://a': fsspec knows no such place (Protocol not known: nowhere)"),
        ({"filename": 3}, "filename=3: expected a template"),
        ({"filename": "{epoch"}, "filename='{epoch' is no template"),
        ({"filename": "last", "save_last": True}, "both want the same file"),
        ({"monitor": 3}, "monitor=3: expected the name of a metric"),
        ({"monitor": ""}, "monitor='': expected the name of a metric"),
        ({"verbose": "yes"}, "verbose='yes': expected True or False"),
        ({"save_last": "always"}, "save_last='always': expected True (a copy), 'link'"),
        ({"save_top_k": -2}, "save_top_k=-2: expected -1 (keep all), 0 (none)"),
        ({"save_top_k": 1.0}, "save_top_k=1.0: expected -1"),
        ({"save_top_k": True}, "save_top_k=True: expected -1"),
        ({"save_top_k": 3}, "save_top_k=3 with monitor=None: there is nothing to tell the best 3 by"),
        ({"save_on_exception": 1}, "save_on_exception=1: expected True or False"),
        ({"save_weights_only": None}, "save_weights_only=None: expected True or False"),
        ({"mode": "mix"}, "mode='mix': expected 'min' or 'max'"),
        ({"mode": "maxx"}, "Did you mean 'max'?"),
        ({"auto_insert_metric_name": 0}, "auto_insert_metric_name=0: expected True or False"),
        ({"every_n_train_steps": -1}, "every_n_train_steps=-1: expected a number of optimizer steps"),
        ({"every_n_train_steps": 0.5}, "every_n_train_steps=0.5: expected a number of optimizer steps"),
        ({"every_n_epochs": -1}, "every_n_epochs=-1: expected a number of epochs"),
        ({"train_time_interval": 60}, "train_time_interval=60: expected a positive timedelta"),
        ({"train_time_interval": timedelta(0)}, "expected a positive timedelta"),
        (
            {"every_n_train_steps": 1, "every_n_epochs": 1},
            "every_n_train_steps and every_n_epochs are mutually exclusive",
        ),
        (
            {"every_n_epochs": 1, "train_time_interval": timedelta(1)},
            "every_n_epochs and train_time_interval are mutually exclusive",
        ),
        (
            {"every_n_train_steps": 1, "train_time_interval": timedelta(1)},
            "every_n_train_steps and train_time_interval are mutually exclusive",
        ),
        (
            {"on_save_error": "wran"},
            "on_save_error='wran': expected 'raise' (training stops) or 'warn' (it goes on). Did",
        ),
        ({"asynchronous": 1}, "asynchronous=1: expected True or False"),
        ({"save_on_train_epoch_end": 1}, "save_on_train_epoch_end=1: expected True, False"),
        ({"enable_version_counter": "no"}, "enable_version_counter='no': expected True or False"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        ModelCheckpoint(**arguments)
    assert str(error.value).startswith("ModelCheckpoint(...) cannot work:\n  - ")
    assert told in str(error.value)


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(MisconfigurationException) as error:
        ModelCheckpoint(dirpath=3, mode="mix", save_top_k=-5, every_n_epochs=-1)  # type: ignore[arg-type]
    assert str(error.value).count("\n  - ") == 4


def test_names_order_and_defaults_are_those_that_users_know() -> None:
    """Those of Lightning first, so that scripts which give them by position port unchanged."""
    given = {name: one.default for name, one in signature(ModelCheckpoint).parameters.items()}
    assert list(given.items()) == list({
        "dirpath": None, "filename": None, "monitor": None, "verbose": False, "save_last": None, "save_top_k": 1,
        "save_on_exception": False, "save_weights_only": False, "mode": "min", "auto_insert_metric_name": True,
        "every_n_train_steps": None, "train_time_interval": None, "every_n_epochs": None,
        "save_on_train_epoch_end": None, "enable_version_counter": True, "asynchronous": False,
        "on_save_error": "raise",
    }.items())  # fmt: skip
    assert {name: one.default for name, one in signature(OnExceptionCheckpoint).parameters.items()} == {
        "dirpath": Parameter.empty, "filename": "on_exception",
    }  # fmt: skip
    writer = signature(BasePredictionWriter)
    assert {name: one.default for name, one in writer.parameters.items()} == {"write_interval": "batch"}
    names = "self trainer pl_module prediction batch_indices batch batch_idx dataloader_idx"
    assert list(signature(BasePredictionWriter.write_on_batch_end).parameters) == names.split()
    names = "self trainer pl_module predictions batch_indices"
    assert list(signature(BasePredictionWriter.write_on_epoch_end).parameters) == names.split()


def test_the_constants_are_those_that_users_know() -> None:
    assert ModelCheckpoint.CHECKPOINT_JOIN_CHAR == "-"
    assert ModelCheckpoint.CHECKPOINT_EQUALS_CHAR == "="
    assert ModelCheckpoint.CHECKPOINT_NAME_LAST == "last"
    assert ModelCheckpoint.FILE_EXTENSION == OnExceptionCheckpoint.FILE_EXTENSION == ".ckpt"
    assert ModelCheckpoint.STARTING_VERSION == 1


def test_the_arguments_can_be_read_back() -> None:
    checkpoint = ModelCheckpoint("here", "{epoch}", "acc", True, "link", 3, mode="max")
    assert (checkpoint.dirpath, checkpoint.filename, checkpoint.monitor) == (os.path.abspath("here"), "{epoch}", "acc")
    assert (checkpoint.verbose, checkpoint.save_last, checkpoint.save_top_k) == (True, "link", 3)
    assert (checkpoint.mode, float(checkpoint.kth_value), checkpoint.best_model_score) == ("max", -math.inf, None)
    assert checkpoint.every_n_epochs == 1
    assert ModelCheckpoint(every_n_train_steps=0).every_n_epochs == 0


def test_two_that_differ_in_what_or_when_have_keys_of_their_own() -> None:
    key = ModelCheckpoint(monitor="val_loss").state_key
    assert key == (
        "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
        "'train_time_interval': None}"
    )
    assert ModelCheckpoint(monitor="val_loss", every_n_train_steps=5).state_key != key
    named = ModelCheckpoint(monitor="val_loss")
    named.name = "second"
    assert named.state_key != key
