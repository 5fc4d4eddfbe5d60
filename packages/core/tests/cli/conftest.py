"""A folder that stands for site-packages, with what a test installs in it and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest


class Site:
    """Writes distributions of one module each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, code: str = "", version: str = "1.0", requires: str = "", **groups: str) -> None:
        """Install `name`; `requires` has a requirement per line, `groups` entry points such as ``bar = mine:make``."""
        module = name.replace("-", "_")
        (self.folder / f"{module}.py").write_text(code, encoding="utf-8")
        about = self.folder / f"{module}-{version}.dist-info"
        about.mkdir()
        lines = [f"Requires-Dist: {one}" for one in requires.splitlines()]
        metadata = "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
        (about / "METADATA").write_text(metadata + "\n", encoding="utf-8")
        names = {"factory": "leyden.callbacks_factory", "callbacks": "leyden.callbacks"}
        text = "\n".join(f"[{names[group]}]\n{points}" for group, points in groups.items())
        (about / "entry_points.txt").write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    """Only what is added is installed; the sources of this repository can be imported all the same."""
    monkeypatch.delenv("LEYDEN_CALLBACKS")
    folder = tmp_path / "site"
    folder.mkdir()
    installed = {str(one.locate_file("")) for one in distributions() if "leyden" not in str(one.locate_file(""))}
    monkeypatch.setattr(sys, "path", [str(folder), *(one for one in sys.path if one not in installed)])
    yield Site(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]
