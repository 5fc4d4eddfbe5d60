"""Names of the core by the paths that scripts written for Lightning import them from."""

from __future__ import annotations

import importlib

import pytest

import leyden
from leyden.lightning_paths import PATHS, RENAMED


@pytest.mark.parametrize("path", PATHS)
def test_each_path_holds_the_names_of_their_modules(path: str) -> None:
    module = importlib.import_module(f"leyden.{path}")
    assert dir(module) == sorted(PATHS[path])
    for name, home in PATHS[path].items():
        own = importlib.import_module(f"leyden.{home}")
        assert getattr(module, name) is getattr(own, RENAMED.get(name, name))


def test_each_way_to_write_the_import() -> None:
    names: dict[str, object] = {}
    exec(
        "import leyden as pl\n"
        "import leyden.utilities.rank_zero as by_name\n"
        "from leyden.utilities import grad_norm\n"
        "from leyden.core import *\n"
        "from leyden.utilities.types import EVAL_DATALOADERS, TRAIN_DATALOADERS, OptimizerLRScheduler\n"
        "attribute = pl.utilities.seed.isolate_rng\n"
        "stage = pl.trainer.states.RunningStage.TRAINING\n",
        names,
    )
    assert names["by_name"].rank_zero_only is leyden.rank_zero_only  # type: ignore[attr-defined]
    assert names["grad_norm"] is leyden.grad_norm
    assert names["LightningModule"] is leyden.LightningModule
    assert names["attribute"] is leyden.isolate_rng
    assert names["stage"] == "train"


def test_a_mistake_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="rank_zero_onyl"):
        exec("from leyden.utilities import rank_zero_onyl")
    with pytest.raises(ModuleNotFoundError, match=r"leyden\.utilities\.rank"):
        importlib.import_module("leyden.utilities.rank")
    with pytest.raises(AttributeError, match="Did you mean 'rank_zero_only'"):
        importlib.import_module("leyden.utilities").rank_zero_onyl  # noqa: B018
