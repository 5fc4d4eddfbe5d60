"""Hyperparameters in TensorBoard: of every kind, beside which metric, and how a run ended."""

from __future__ import annotations

import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from tensorboard_runs import FAILURE, SUCCESS, Net, fit, hparams, loader, scalars
from torch import nn

from leyden.testing import BoringModule
from leyden_monitoring import TensorBoardLogger


@pytest.mark.parametrize("kind", [dict, Namespace])
def test_hyperparameters_of_every_kind(tmp_path: Path, kind: Any) -> None:
    params = {
        "lr": 0.1,
        "layers": [8, 2],
        "net": {"bias": True, "act": nn.ReLU(), "inner": {"deep": "x"}, "empty": {}},
        "seed": None,
        "clip": math.inf,
        "momentum": torch.tensor(0.5),
        "size": np.int64(3),
        "key": 10**400,
        "file\udcff": os.fsdecode(b"\xff.csv"),
    }
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams(kind(**params), {"acc": 0.5, "loss": torch.tensor(2.0)}, step=9)
    logger.finalize("success")
    values = {
        **{"lr": 0.1, "layers": "[8, 2]", "net/bias": True, "net/act": "ReLU()", "net/inner/deep": "x"},
        **{"net/empty": "{}", "seed": "None", "clip": "inf", "momentum": 0.5, "size": 3.0},
        **{"key": str(10**400), "file\\udcff": "\\udcff.csv"},
    }
    assert hparams(logger.log_dir) == (values, list(values), ["acc", "loss"], SUCCESS)
    assert scalars(logger.log_dir) == {"acc": [(9, 0.5)], "loss": [(9, 2.0)]}
    saved = yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())
    assert (saved["layers"], saved["net"]["inner"], saved["clip"]) == ([8, 2], {"deep": "x"}, math.inf)


def test_a_run_lists_its_hyperparameters_with_a_placeholder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(logger)
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["hp_metric"], SUCCESS)
    assert scalars(logger.log_dir)["hp_metric"] == [(0, -1.0)]


def test_without_the_placeholder_every_scalar_is_a_metric(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    fit(logger)
    assert hparams(logger.log_dir) == ({"lr": 0.1}, [], [], SUCCESS)
    assert "hp_metric" not in scalars(logger.log_dir)


def test_without_hyperparameters_there_is_no_placeholder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(logger, BoringModule(), limit_val_batches=0)
    assert set(scalars(logger.log_dir)) == {"train_loss", "epoch"}
    assert Path(logger.log_dir, "hparams.yaml").read_text() == "{}\n"


def test_metrics_given_on_train_start_take_the_place_of_the_placeholder(tmp_path: Path) -> None:
    class Listed(Net):
        def on_train_start(self) -> None:
            self.logger.log_hyperparams(self.hparams, {"hp/val": 0.0})  # type: ignore[union-attr]

        def on_validation_epoch_end(self) -> None:
            self.log("hp/val", 1.0)

    logger = TensorBoardLogger(tmp_path)
    fit(logger, Listed())
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["hp/val"], SUCCESS)
    assert scalars(logger.log_dir)["hp/val"] == [(0, 0.0), (3, 1.0), (7, 1.0)]


def test_metrics_that_come_too_late_are_scalars_and_it_is_said(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(logger)
    with pytest.warns(UserWarning, match=r"with hp_metric by now, so that acc will be among the scalars only"):
        logger.log_hyperparams({"lr": 0.1}, {"acc": 0.5})
    logger.save()
    assert scalars(logger.log_dir)["acc"] == [(7, 0.5)]


def test_without_the_placeholder_metrics_may_come_at_the_end(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    trainer = fit(logger)
    (result,) = trainer.validate(trainer.lightning_module, loader(), verbose=False)
    logger.log_hyperparams({}, result)
    logger.save()
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["val"], SUCCESS)
    steps = [step for step, _ in scalars(logger.log_dir)["val"]]
    assert steps == [3, 7, 8, 8], "a step back would be taken for a restart, and the curve before it left out"


def test_one_number_is_the_metric(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1}, 0.75)
    logger.log_hyperparams({"lr": 0.1}, 0.75)
    logger.log_hyperparams({"lr": 0.1}, 0.5, step=3)
    logger.save()
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["hp_metric"], None)
    assert scalars(logger.log_dir) == {"hp_metric": [(0, 0.75), (3, 0.5)]}


def test_a_run_that_fails_is_listed_as_failed(tmp_path: Path) -> None:
    class Failing(Net):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("stop")

    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="stop"):
        fit(logger, Failing())
    assert hparams(logger.log_dir)[3] == FAILURE
    assert [step for step, _ in scalars(logger.log_dir)["loss_step"]] == [0, 1, 2, 3]
