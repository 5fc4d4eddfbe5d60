"""Which entry points there are, whatever other distributions' metadata looks like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from leyden.discovery import installed_callbacks, installed_factories
from leyden.discovery.installed import canonical, unreadable_distributions

if TYPE_CHECKING:
    from packages.core.tests.conftest import Site

WATCH = "from found import *\ndef make(): return [Watch()]"


def listed() -> list[tuple[str, str]]:
    return [(entry_point.name, entry_point.value) for entry_point in installed_factories()]


def test_installed_factories_imports_nothing(site: Site) -> None:
    site.add("one", "raise RuntimeError", "x = one:make", callbacks=["Watch = one:Watch"])
    assert listed() == [("x", "one:make")]
    assert [(one.name, one.value) for one in installed_callbacks()] == [("Watch", "one:Watch")]


def test_they_are_sorted_by_distribution_and_name(site: Site) -> None:
    site.add("zebra", "", "a = zebra:a")
    site.add("ant", "", "late = ant:c", "early = ant:b")
    assert listed() == [("early", "ant:b"), ("late", "ant:c"), ("a", "zebra:a")]


def test_what_is_installed_and_removed_in_this_process_is_seen(site: Site) -> None:
    assert listed() == []
    about = site.add("one", WATCH, "x = one:make")
    assert listed() == [("x", "one:make")]
    for file in about.iterdir():
        file.unlink()
    about.rmdir()
    assert listed() == []


def test_nothing_is_read_again_while_nothing_changes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("one", WATCH, "x = one:make")
    first = installed_factories()
    monkeypatch.setattr("importlib.metadata.distributions", lambda: pytest.fail("read again"))
    assert installed_factories() == first


def test_a_distribution_that_is_on_the_path_twice_counts_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("one", WATCH, "x = one:make")
    again = type(site)(tmp_path / "again")
    again.folder.mkdir()
    again.add("one", "raise RuntimeError", "x = one:make", version="0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(again.folder)])
    assert site.names() == ["Watch"]


def test_another_distributions_broken_entry_points_are_not_our_matter(site: Site) -> None:
    about = site.add("odd", "")
    (about / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
    about = site.add("binary", "")
    (about / "entry_points.txt").write_bytes(b"[console_scripts]\n\xff = \xfe:main\n")
    site.add("one", WATCH, "x = one:make")
    assert site.names() == ["Watch"]


def test_entry_points_of_the_group_that_cannot_be_read_are_reported(site: Site) -> None:
    site.add("odd", "", "no equals sign", version="2.0")
    site.add("one", WATCH, "x = one:make")
    assert [(one.distribution, one.version, one.name) for one in unreadable_distributions()] == [
        ("odd", "2.0", "entry_points.txt")
    ]
    with pytest.warns(UserWarning, match=r"^The callbacks of odd 2\.0 are left out: .*it cannot be read") as caught:
        assert [type(p.callback).__name__ for p in site.discover().placed] == ["Watch"]
    assert len(caught) == 1


@pytest.mark.parametrize("metadata", ["", "Metadata-Version: 2.1\n"])
def test_a_distribution_without_a_name_is_asked_and_named_as_such(site: Site, metadata: str) -> None:
    site.add("one", WATCH, "x = one:make", metadata=metadata)
    site.add("two", "def make(): raise RuntimeError", "y = two:make", metadata=metadata)
    with pytest.warns(UserWarning, match="^The callbacks of an unnamed distribution are left out"):
        found = site.discover()
    assert [(type(p.callback).__name__, p.distribution) for p in found.placed] == [("Watch", "an unnamed distribution")]


def test_a_distribution_without_metadata_is_asked(site: Site) -> None:
    about = site.add("one", WATCH, "x = one:make")
    (about / "METADATA").unlink()
    assert site.names() == ["Watch"]


@pytest.mark.parametrize(("one", "other"), [("A_b", "a-b"), ("A.B", "a-b"), (" a--b", "a_b")])
def test_names_are_compared_as_pip_does(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


def test_import_leyden_looks_for_nothing(tmp_path: Path) -> None:
    """Neither metadata nor configuration are read, nor is what reads them imported."""
    (tmp_path / "pyproject.toml").write_text("[tool.leyden.nonsense]\n")
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "sys.modules['importlib.metadata'].distributions = sys.modules['importlib.metadata'].entry_points = None\n"
        "import leyden; print(*sorted(set(sys.modules) - before))"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    new = set(done.stdout.split())
    assert "leyden.discovery" in new
    assert not new & {"tomllib", "leyden.configuration.values", "leyden.discovery.configured"}
    assert not {name for name in new if name.startswith("leyden_")}
