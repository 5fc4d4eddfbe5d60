"""File names: templates filled in, made safe, and kept apart."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Trainer
from leyden.loggers import CSVLogger
from leyden_checkpoint.naming import checkpoint_name, first_free_name, folder_of, template_problems


@pytest.mark.parametrize(
    ("template", "metrics", "expected"),
    [
        (None, {"epoch": 3, "step": 40}, "epoch=3-step=40"),
        ("", {"epoch": 3, "step": 40}, "epoch=3-step=40"),
        ("ckpt", {}, "ckpt"),
        ("{epoch:03d}-{acc}", {"epoch": 3, "acc": 0.03}, "epoch=003-acc=0.03"),
        ("{epoch}-{val_loss:.2f}", {"epoch": 3, "val_loss": torch.tensor(0.1234)}, "epoch=3-val_loss=0.12"),
        ("{val/loss:.1e}", {"val/loss": torch.tensor(0.1234)}, "val_loss=1.2e-01"),
        ("{val\\loss}", {"val\\loss": 1}, "val_loss=1"),
        ("{loss}-{loss_step}", {"loss": 1, "loss_step": 2}, "loss=1-loss_step=2"),
        ("{a.b}-{a-b}", {"a.b": 1, "a-b": 2}, "a.b=1-a-b=2"),
        ("{acc:03d}", {"acc": torch.tensor(7.6)}, "acc=008"),
        ("{acc:03d}", {"acc": torch.tensor(math.nan)}, "acc=nan"),
        ("{missing:.2f}", {}, "missing=nan"),
        ("{epoch:4d}", {"epoch": 3}, "epoch=3"),
        ("sub/{epoch}", {"epoch": 3}, "sub/epoch=3"),
        ("{{kept}}", {}, "{kept}"),
    ],
)
def test_templates_are_filled_in(template: str | None, metrics: dict[str, Any], expected: str) -> None:
    assert checkpoint_name(template, metrics) == expected


def test_names_may_be_left_out_and_the_signs_chosen() -> None:
    metrics = {"epoch": 3, "val/loss": 0.5}
    assert checkpoint_name("{epoch}-{val/loss:.2f}", metrics, insert_names=False) == "3-0.50"
    assert checkpoint_name("{epoch}", metrics, equals=":", prefix="run", join="_") == "run_epoch:3"
    assert checkpoint_name(None, {"epoch": 1, "step": 2}, join="_") == "epoch=1_step=2"


def test_a_taken_name_gets_the_first_free_version() -> None:
    taken = {"a", "a-v1", "a-v2"}
    name = first_free_name(lambda version: "a" if version is None else f"a-v{version}", taken.__contains__, 1)
    assert name == "a-v3"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("/tmp/{epoch}", "leads out of its folder; give the folder as dirpath"),
        ("../{epoch}", "leads out of its folder"),
        ("{epoch", "is no template"),
        ("{}", "has a field without a plain name"),
        ("{epoch!r}", "has a field without a plain name"),
        ("{loss:.2q}", "'.2q' formats no number"),
    ],
)
def test_templates_that_cannot_work_are_told(template: str, problem: str) -> None:
    (told,) = template_problems(template)
    assert problem in told


def test_the_folder_is_that_of_the_loggers_version(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs", name="runs", version=3)
    named = CSVLogger(tmp_path / "logs", name="", version="first")
    assert folder_of(Trainer(logger=logger, discover_callbacks=False)) == f"{tmp_path}/logs/runs/version_3/checkpoints"
    assert folder_of(Trainer(logger=named, discover_callbacks=False)) == f"{tmp_path}/logs/first/checkpoints"


def test_without_a_logger_the_folder_is_under_the_root(tmp_path: Path) -> None:
    inside = Trainer(logger=False, default_root_dir=tmp_path / "root", discover_callbacks=False)
    assert folder_of(inside) == f"{tmp_path}/root/checkpoints"
    assert folder_of(Trainer(logger=False, discover_callbacks=False)) == os.path.join(os.getcwd(), "checkpoints")
