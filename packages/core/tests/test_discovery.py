"""Discovery by real entry points: distributions written into a folder that is all of `sys.path`."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from leyden.callback import Callback, Checkpoint
from leyden.discovery import discover, discovery_is_on, installed_factories

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
    """A folder that stands for site-packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, code: str, *entry_points: str, version: str = "1.0") -> None:
        """Write a distribution with one module of its name; `entry_points` are such as ``"bar = mine:make"``."""
        module = name.replace("-", "_")
        (self.folder / f"{module}.py").write_text(code, encoding="utf-8")
        about = self.folder / f"{module}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        lines = "\n".join(["[leyden.callbacks_factory]", *entry_points])
        (about / "entry_points.txt").write_text(lines + "\n", encoding="utf-8")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    monkeypatch.delenv("LEYDEN_CALLBACKS")
    made = Site(tmp_path)
    made.add("found", CALLBACKS)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    yield made
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def names(given: Sequence[Callback] = (), trainer: object = None, **switches: bool | None) -> list[str]:
    """Discover, with warnings as errors; return the classes' names."""
    with warnings.catch_warnings(action="error"):
        return [type(placed.callback).__name__ for placed in discover(cast(Any, trainer), given, **switches).placed]


def found(name: str, *args: object) -> Callback:
    """An instance of a class of the distribution `found`, as a user would make it."""
    callback = getattr(importlib.import_module("found"), name)(*args)
    assert isinstance(callback, Callback)
    return callback


def test_factories_attach_in_the_order_of_distributions_and_names(site: Site) -> None:
    site.add("zebra", "from found import *\ndef a(): return [Summary(), Watch('a')]", "a = zebra:a")
    site.add(
        "ant",
        "from found import *\ndef b(): return [Bar()]\ndef c(): return (Watch('c'),)",
        "late = ant:c",
        "early = ant:b",
        version="2.1",
    )
    placed = discover(cast(Any, None), []).placed
    assert [(type(p.callback).__name__, p.source, p.distribution) for p in placed] == [
        ("Bar", "discovered", "ant 2.1"),
        ("Watch", "discovered", "ant 2.1"),
        ("Summary", "discovered", "zebra 1.0"),
        ("Watch", "discovered", "zebra 1.0"),
    ]


@pytest.mark.parametrize(
    "signature",
    ["()", "(settings)", "(settings={})", "(settings, other=1)", "(*settings)", "(*, key=1)"],
)
def test_a_factory_takes_nothing_or_one_mapping(site: Site, signature: str) -> None:
    site.add("one", f"from found import *\ndef make{signature}: return [Bar()]", "x = one:make")
    assert names() == ["Bar"]


def test_a_class_may_be_a_factory(site: Site) -> None:
    code = "from found import *\nclass Make(list):\n    def __init__(self): super().__init__([Bar()])"
    site.add("one", code, "x = one:Make")
    assert names() == ["Bar"]


def test_a_distribution_that_is_on_the_path_twice_is_asked_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add("one", "from found import *\ndef make(): return [Watch()]", "x = one:make")
    again = Site(tmp_path / "again")
    again.folder.mkdir()
    again.add("one", "raise RuntimeError", "x = one:make", version="0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(again.folder)])
    assert names() == ["Watch"]


@pytest.mark.parametrize("value", ["off", "OFF", " off ", "0", "false", "no"])
def test_the_environment_switches_it_off(site: Site, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    site.add("one", "raise RuntimeError('not even imported')", "x = one:make")
    monkeypatch.setenv("LEYDEN_CALLBACKS", value)
    assert not discovery_is_on()
    assert names() == []


@pytest.mark.parametrize("value", ["", "on", "1"])
def test_another_value_leaves_it_on(site: Site, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    site.add("one", "from found import *\ndef make(): return [Watch()]", "x = one:make")
    monkeypatch.setenv("LEYDEN_CALLBACKS", value)
    assert discovery_is_on()
    assert names() == ["Watch"]


FAILURES = {
    "import": ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "missing": ("", "AttributeError: module 'broken' has no attribute 'make'"),
    "raises": ("def make(): raise RuntimeError('no\\n  driver')", "RuntimeError: no driver"),
    "wants more": ("def make(one, two): return []", "TypeError: make() missing 2 required positional arguments"),
    "returns none": ("def make(): return None", "TypeError: it returned None; a factory returns a list of callbacks"),
    "returns text": ("def make(): return 'bar'", "TypeError: it returned 'bar'; a factory returns a list of callbacks"),
    "a class": (
        "from found import Bar\ndef make(): return [Bar]",
        "TypeError: it returned <class 'found.Bar'> among its callbacks; each must be an instance of leyden.Callback",
    ),
    "applies": (
        "from leyden.callback import Callback\n"
        "class Odd(Callback):\n    def applies(self, trainer): raise OSError('no NVML')\n"
        "def make(): return [Callback(), Odd()]",
        "OSError: no NVML",
    ),
}


@pytest.mark.parametrize(("code", "cause"), FAILURES.values(), ids=FAILURES)
def test_a_factory_that_fails_is_reported_in_a_line_and_left_out(site: Site, code: str, cause: str) -> None:
    site.add("broken", code, "x = broken:make", version="3.2")
    site.add("sound", "from found import *\ndef make(): return [Watch()]", "y = sound:make")
    with pytest.warns(UserWarning, match="^The callbacks of broken") as caught:
        placed = discover(cast(Any, None), []).placed
    assert [type(p.callback).__name__ for p in placed] == ["Watch"]
    (message,) = (str(warning.message) for warning in caught)
    assert message.startswith(
        "The callbacks of broken 3.2 are left out: its entry point `x = broken:make` in the group "
        f"leyden.callbacks_factory failed with {cause}"
    )
    assert "\n" not in message


class OwnCheckpoint(Checkpoint):
    """A user's."""


class OwnBar(Callback):
    """A user's progress bar, of no type that is discovered."""

    role = "progress_bar"


def test_a_checkpoint_is_left_out_where_the_user_gave_one_or_wants_none(site: Site) -> None:
    site.add("one", "from found import *\ndef make(): return [Saver()]", "x = one:make")
    site.add("two", "from found import *\ndef make(): return [Saver()]", "x = two:make")
    assert names() == ["Saver"]
    assert names(enable_checkpointing=True) == ["Saver"]
    assert names(enable_checkpointing=False) == []
    assert names([OwnCheckpoint()]) == []


def test_roles_obey_their_switches_and_are_filled_once(site: Site) -> None:
    code = "from found import *\ndef make(): return [Bar(), OtherBar(), Summary(), Watch()]"
    site.add("one", code, "x = one:make")
    assert names() == ["Bar", "Summary", "Watch"]
    assert names(enable_progress_bar=True, enable_model_summary=True) == ["Bar", "Summary", "Watch"]
    assert names(enable_progress_bar=False) == ["Summary", "Watch"]
    assert names(enable_model_summary=False) == ["Bar", "Watch"]
    assert names([OwnBar()]) == ["Summary", "Watch"]


def test_the_users_own_of_the_same_type_and_key_wins(site: Site) -> None:
    site.add("one", "from found import *\ndef make(): return [Watch('loss'), Watch('acc')]", "x = one:make")
    own_class = type("Own", (type(found("Watch")),), {})
    assert names() == ["Watch", "Watch"]
    assert names([found("Watch", "loss")]) == ["Watch"]
    assert names([found("Watch", "loss"), found("Watch", "acc")]) == []
    assert names([found("Watch", "else")]) == ["Watch", "Watch"]
    assert names([own_class()]) == []
    assert names([Callback()]) == ["Watch", "Watch"]


def test_a_callback_is_asked_whether_it_applies(site: Site) -> None:
    site.add("one", "from found import *\ndef make(): return [WhereCpu(), Watch()]", "x = one:make")
    assert names(trainer="cpu") == ["WhereCpu", "Watch"]
    assert names(trainer="cuda") == ["Watch"]


def test_installed_factories_imports_nothing(site: Site) -> None:
    site.add("one", "raise RuntimeError", "x = one:make")
    assert [(entry_point.name, entry_point.value) for entry_point in installed_factories()] == [("x", "one:make")]
