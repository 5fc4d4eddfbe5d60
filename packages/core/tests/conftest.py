"""What tests of discovery share: real distributions, written into a folder that stands for site-packages."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest
import torch

from leyden import Trainer
from leyden.callback import Callback
from leyden.discovery import Discovered, discover
from leyden.testing import BoringModule

CALLBACKS = """
from leyden.callback import Callback, Checkpoint

class Bar(Callback):
    role = "progress_bar"

class OtherBar(Callback):
    role = "progress_bar"

class Summary(Callback):
    role = "model_summary"

class Saver(Checkpoint): ...

class Watch(Callback):
    def __init__(self, what="loss"):
        self.what = what
    @property
    def state_key(self):
        return self._generate_state_key(what=self.what)

class WhereCpu(Callback):
    def applies(self, trainer):
        return trainer == "cpu"
"""


class Site:
    """A folder that stands for site-packages: nothing else that is installed brings a factory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self,
        name: str,
        code: str,
        *entry_points: str,
        version: str = "1.0",
        callbacks: Sequence[str] = (),
        metadata: str | None = None,
    ) -> Path:
        """Write a distribution with one module of its name, as an editable installation leaves it; its metadata's path.

        `entry_points` are such as ``"bar = mine:make"``, `callbacks` such as ``"Watch = mine:Watch"``.
        """
        module = name.replace("-", "_")
        (self.folder / f"{module}.py").write_text(code, encoding="utf-8")
        about = self.folder / f"{module}-{version}.dist-info"
        about.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" if metadata is None else metadata
        (about / "METADATA").write_text(head, encoding="utf-8")
        lines = ["[leyden.callbacks_factory]", *entry_points, "[leyden.callbacks]", *callbacks]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return about

    def configure(self, text: str) -> Path:
        """Write ``leyden.toml`` into the working folder, which ``LEYDEN_CONFIG`` names; its path."""
        path = Path("leyden.toml")
        path.write_text(text, encoding="utf-8")
        os.environ["LEYDEN_CONFIG"] = str(path)  # the fixture sets it back
        return path

    def discover(self, given: Sequence[Callback] = (), trainer: object = None, **switches: bool | None) -> Discovered:
        """Discover for something that stands for a trainer."""
        return discover(cast(Any, trainer), given, **switches)

    def names(self, given: Sequence[Callback] = (), trainer: object = None, **switches: bool | None) -> list[str]:
        """Discover, with warnings as errors; return the classes' names."""
        with warnings.catch_warnings(action="error"):
            return [type(one.callback).__name__ for one in self.discover(given, trainer, **switches).placed]

    def make(self, name: str, *args: object) -> Callback:
        """Return an instance of a class of the distribution `found`, as a user would make it."""
        callback = getattr(importlib.import_module("found"), name)(*args)
        assert isinstance(callback, Callback)
        return callback


class _Importable:
    """Finds modules in folders that are no longer on the path, and no distributions: torch imports much when used."""

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return PathFinder.find_spec(name, self._folders, target) if path is None else None


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """A `Site` that holds the callbacks of this module as ``found``, with discovery switched on."""
    monkeypatch.delenv("LEYDEN_CALLBACKS")
    monkeypatch.setenv("LEYDEN_CONFIG", "")
    folder = tmp_path / "site"
    folder.mkdir()
    made = Site(folder)
    made.add("found", CALLBACKS)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, _Importable(list(sys.path))])
    monkeypatch.setattr(sys, "path", [str(folder)])
    yield made
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def calls_per_step() -> Callable[[Callable[[], Trainer]], float]:
    """Count the Python calls of a training step: runs of 50 and of 100 are subtracted."""

    def calls(make: Callable[[], Trainer], steps: int) -> int:
        made, number = make(), 0
        made.limit_train_batches, made.max_epochs, made.limit_val_batches = steps, 1, 0

        def count(frame: FrameType, event: str, argument: Any) -> None:
            nonlocal number
            number += event == "call"

        outer = sys.getprofile()
        gc.collect()
        gc.disable()  # a collection calls finalisers, at no step in particular
        sys.setprofile(count)
        try:
            made.fit(BoringModule(), [torch.ones(2, 4)] * steps)
        finally:
            sys.setprofile(outer)
            gc.enable()
        return number

    def measure(make: Callable[[], Trainer]) -> float:
        calls(make, 50)  # what is imported or cached by a first run is so now
        return (calls(make, 100) - calls(make, 50)) / 50

    return measure
