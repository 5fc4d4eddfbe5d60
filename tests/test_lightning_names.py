"""The tables of Lightning's names: none is missing, none is called the same that is not, and what is advised is there.

With Lightning installed the names are compared with the real ones: ``hatch run bench:lightning`` for 2.x,
``hatch run lightning1:lightning`` for 1.x.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import leyden
import leyden.callbacks

ROOT = Path(__file__).parents[1]
PARTS_OF_NAMES = re.compile(r"`(leyden[\w.]*)")


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """The extension that writes the tables."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    return importlib.import_module("lightning_names")


def test_each_name_is_here_or_has_an_advice(site: ModuleType) -> None:
    names = list(site.names())
    assert [one for one in names if not one.is_here and not one.advice] == []
    assert len([one for one in names if one.is_here]) > 950
    given = {one.advice for one in names}
    assert [rule for rule in site._instead() if rule[2] not in given] == [], "rules that no name needs"


def test_what_is_advised_is_there(site: ModuleType) -> None:
    advised = {found for one in site.names() for found in PARTS_OF_NAMES.findall(one.advice)} - {"leyden.toml"}
    assert len(advised) > 15
    for dotted in advised:
        first, *rest = dotted.split(".")
        found = importlib.import_module(first)
        for name in rest:
            with contextlib.suppress(ModuleNotFoundError):  # a name that is no module
                importlib.import_module(f"{found.__name__}.{name}")
            found = getattr(found, name)


def test_names_that_are_the_same_are_imported_by_the_same_path(site: ModuleType) -> None:
    modules = {one.path for one in site.names() if not re.search(r"[A-Z]\w*$|\)$", one.path)}
    for one in site.names(*modules - {""}):
        if one.is_here:
            exec(f"from leyden.{one.path} import {one.name}")
    assert {"utilities.rank_zero", "callbacks.early_stopping", "trainer.states"} <= {*modules, "utilities.rank_zero"}


def test_arguments_that_are_the_same_are_taken() -> None:
    """The plainest of them, with values, by position and by name."""
    trainer = leyden.Trainer(accelerator="cpu", strategy="auto", devices=1, num_nodes=1, plugins=None, logger=False)
    assert trainer.num_devices == 1
    leyden.callbacks.EarlyStopping("loss", 0.1, 2, False, "max", strict=False, log_rank_zero_only=True)
    leyden.callbacks.LambdaCallback(on_fit_start=print, setup=print)


@pytest.mark.filterwarnings("ignore")
def test_the_tables_have_every_name_of_the_lightning_that_is_installed(site: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "lightning.pytorch" if find_spec("lightning") is not None else "pytorch_lightning"
        package = pytest.importorskip(name, exc_type=ImportError)
    public = importlib.import_module("lightning_public")
    generation, known = public.generation_of(package), public.read()
    missing = {
        path: unknown
        for path, names in public.public_names(package).items()
        if (unknown := [name for name in names if generation not in known.get(path, {}).get(name, "")])
    }
    assert missing == {}
    assert len(known["Trainer(...)"]) > 40


def test_the_page_shows_every_path(site: ModuleType) -> None:
    page = (ROOT / "docs" / "lightning_names.md").read_text(encoding="utf-8")
    shown = [one for line in re.findall(r"{lightning-names} (.*)", page) for one in site.names(*line.split())]
    assert sorted(map(repr, shown)) == sorted(map(repr, site.names())), "each name once"
