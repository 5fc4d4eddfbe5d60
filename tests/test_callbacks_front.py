"""`leyden.callbacks` against the families in this repository: no name forgotten, none too many."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path

import pytest

import leyden.callbacks
from leyden.callback import Callback

ROOT = Path(__file__).parents[1]
FAMILIES = ["checkpoint", "monitoring", "finetune", "optim"]


def names_for_type_checkers() -> dict[str, str]:
    """Return the names that the front imports from families for type checkers, with their families."""
    tree = ast.parse(Path(leyden.callbacks.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        alias.name: node.module.removeprefix("leyden_")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module is not None
        for alias in node.names
    }


def callbacks_of(family: str) -> set[str]:
    """Return the names of callbacks that a family exports."""
    module = importlib.import_module(f"leyden_{family}")
    exported = ((name, getattr(module, name)) for name in module.__all__)
    return {name for name, value in exported if isinstance(value, type) and issubclass(value, Callback)}


def test_type_checkers_know_the_names_that_the_table_knows() -> None:
    assert names_for_type_checkers() == leyden.callbacks._FAMILY


@pytest.mark.parametrize("family", FAMILIES)
def test_the_front_has_every_callback_of_a_family(family: str) -> None:
    assert {name for name, where in leyden.callbacks._FAMILY.items() if where == family} == callbacks_of(family)
    for name in callbacks_of(family):
        assert getattr(leyden.callbacks, name) is getattr(importlib.import_module(f"leyden_{family}"), name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_familys_factory_makes_callbacks_anew_each_time(family: str) -> None:
    factory = importlib.import_module(f"leyden_{family}.factory").make_callbacks
    first, second = factory(), factory()
    expected = {
        "checkpoint": ["ModelCheckpoint"],
        "monitoring": [
            "TQDMProgressBar",
            "ModelSummary",
            "LearningRateMonitor",
            "ThroughputMonitor",
            "DeviceStatsMonitor",
        ],
        "finetune": [],
        "optim": [],
    }
    assert [type(callback).__name__ for callback in first] == expected[family]
    assert all(one is not other for one, other in zip(first, second, strict=True))


def test_the_extras_of_the_core_are_the_families() -> None:
    project = tomllib.loads((ROOT / "packages/core/pyproject.toml").read_text(encoding="utf-8"))["project"]
    families = {family: [f"leyden-callbacks-{family}>=0.1,<0.2"] for family in FAMILIES}
    assert project["optional-dependencies"] == families | {"all": [f"leyden[{','.join(FAMILIES)}]"]}
    assert {path.name for path in (ROOT / "packages").iterdir()} == {"core", *(f"callbacks-{f}" for f in FAMILIES)}
