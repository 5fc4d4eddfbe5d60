"""The tables of Lightning's names: none is missing, none is called the same that is not, and what is advised is there.

With Lightning installed the names are compared with the real ones: ``hatch run bench:lightning`` for 2.x,
``hatch run lightning1:lightning`` for 1.x.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

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


@pytest.fixture(scope="module")
def lightning() -> Any:
    """The real one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "lightning.pytorch" if find_spec("lightning") is not None else "pytorch_lightning"
        return pytest.importorskip(name, exc_type=ImportError)


@pytest.mark.filterwarnings("ignore")
def test_the_tables_have_every_name_of_the_lightning_that_is_installed(lightning: Any, site: ModuleType) -> None:
    public = importlib.import_module("lightning_public")
    generation, known = public.generation_of(lightning), public.read()
    missing = {
        path: unknown
        for path, names in public.public_names(lightning).items()
        if (unknown := [name for name in names if generation not in known.get(path, {}).get(name, "")])
    }
    assert missing == {}
    assert len(known["Trainer(...)"]) > 40


OTHER_DEFAULTS = {
    "loggers.CSVLogger name": "leyden_logs",
    "loggers.TensorBoardLogger name": "leyden_logs",
    "callbacks.RichProgressBar refresh_rate": 1,
    "callbacks.RichProgressBar theme": "whose description has the terminal's colour",
    "callbacks.LearningRateFinder update_attr": True,
    "tuner.Tuner.lr_find update_attr": True,
    "LightningModule.load_from_checkpoint strict": None,
    "Trainer.save_checkpoint weights_only": False,
    **dict.fromkeys(("Trainer accelerator", "Trainer devices", "Trainer strategy"), "auto"),
    **{f"Trainer {name}": None for name in ("enable_checkpointing", "enable_model_summary", "enable_progress_bar")},
    **{f"Trainer {name}": None for name in ("log_every_n_steps", "logger", "num_sanity_val_steps", "precision")},
    "Trainer accumulate_grad_batches": 1,
}
"""Defaults that are not those of one of the generations; `docs/lightning.md` tells of what is noticed of them."""


def defaults_of(function: Any) -> dict[str, str]:
    """Return the defaults of arguments that may be given by position or name, in their order, as they are written."""
    parameters = inspect.signature(function).parameters.values()
    plain = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    written = {one.name: getattr(one.default, "value", getattr(one.default, "__name__", one.default)) for one in plain}
    return {name: str(default) for name, default in written.items() if name not in ("self", "cls")}


@pytest.mark.filterwarnings("ignore")
def test_defaults_and_order_of_arguments_are_those_of_lightning(lightning: Any, site: ModuleType) -> None:
    other, compared = [], 0
    importlib.import_module(f"{lightning.__name__}.tuner.tuning")
    for path in {one.path for one in site.names("*(...)")}:
        name = path.removesuffix("(...)")
        theirs, ours = lightning, site._resolve(name)
        for part in name.replace("tuner.Tuner", "tuner.tuning.Tuner").split("."):
            theirs = getattr(theirs, part, None)
        if theirs is None or ours is None or not callable(theirs) or name == "callbacks.LambdaCallback":
            continue
        known, here = defaults_of(theirs), defaults_of(ours)
        shared = [argument for argument in known if argument in here]
        assert name == "Trainer" or shared == [argument for argument in here if argument in known], path
        other += [f"{name} {one}" for one in shared if known[one] != here[one] and "empty" not in known[one]]
        compared += len(shared)
    assert sorted({*other} - {*OTHER_DEFAULTS}) == []
    assert compared > 200


def test_the_page_shows_every_path(site: ModuleType) -> None:
    page = (ROOT / "docs" / "lightning_names.md").read_text(encoding="utf-8")
    shown = [one for line in re.findall(r"{lightning-names} (.*)", page) for one in site.names(*line.split())]
    assert sorted(map(repr, shown)) == sorted(map(repr, site.names())), "each name once"
