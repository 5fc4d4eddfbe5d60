"""Callbacks by the paths that scripts written for Lightning import them from."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import leyden.callbacks
from leyden.callback_paths import BESIDE, PATHS


@pytest.mark.parametrize("path", PATHS)
def test_each_path_holds_the_callbacks_of_the_front(path: str) -> None:
    module = importlib.import_module(f"leyden.callbacks.{path}")
    assert sorted(dir(module)) == sorted([*PATHS[path], *([BESIDE[path]] if path in BESIDE else [])])
    for name in PATHS[path]:
        assert getattr(module, name) is getattr(leyden.callbacks, name)


@pytest.mark.parametrize(("path", "name"), BESIDE.items())
def test_what_a_path_holds_beside_is_that_of_the_family(path: str, name: str) -> None:
    found = getattr(importlib.import_module(f"leyden.callbacks.{path}"), name)
    family = getattr(leyden.callbacks, PATHS[path][0]).__module__
    assert found is getattr(importlib.import_module(family), name)
    assert found.__module__.partition(".")[0] == family.partition(".")[0]


def test_every_callback_that_lightning_has_is_under_a_path() -> None:
    own = {"Heartbeat", "PrometheusExporter"}
    assert {name for names in PATHS.values() for name in names} == set(leyden.callbacks.__all__) - own - {"families"}


def test_each_way_to_write_the_import() -> None:
    names: dict[str, object] = {}
    exec(
        "import leyden.callbacks.model_checkpoint as by_name\n"
        "from leyden.callbacks import early_stopping\n"
        "from leyden.callbacks.progress import *\n"
        "import leyden\n"
        "attribute = leyden.callbacks.progress.rich_progress.RichProgressBar\n",
        names,
    )
    assert names["by_name"].ModelCheckpoint is leyden.callbacks.ModelCheckpoint  # type: ignore[attr-defined]
    assert names["early_stopping"].EarlyStopping is leyden.callbacks.EarlyStopping  # type: ignore[attr-defined]
    assert names["TQDMProgressBar"] is leyden.callbacks.TQDMProgressBar
    assert names["attribute"] is leyden.callbacks.RichProgressBar


def test_a_mistake_is_an_import_error() -> None:
    with pytest.raises(ImportError, match="EarlyStoping"):
        exec("from leyden.callbacks.early_stopping import EarlyStoping")
    with pytest.raises(ModuleNotFoundError, match=r"leyden\.callbacks\.early_stoping"):
        importlib.import_module("leyden.callbacks.early_stoping")
    with pytest.raises(AttributeError, match="Did you mean 'EarlyStopping'"):
        importlib.import_module("leyden.callbacks.early_stopping").EarlyStoping  # noqa: B018


def test_a_path_imports_no_family() -> None:
    code = (
        "import sys, leyden.callbacks.timer, leyden.loggers.tensorboard, leyden.utilities\n"
        "print([name for name in sys.modules if name.startswith('leyden_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
