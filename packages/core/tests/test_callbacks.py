"""The lazy front, with families as they may be found: there, missing, broken, too old."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from leyden import callbacks
from leyden.callback import Callback, Checkpoint, LambdaCallback


@pytest.fixture(autouse=True)
def _forget_what_was_found() -> Iterator[None]:
    kept = dict(vars(callbacks))
    for name in callbacks._FAMILY:
        vars(callbacks).pop(name, None)
    yield
    vars(callbacks).clear()
    vars(callbacks).update(kept)


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: object) -> None:
    """Put a module of this name among those imported already."""
    made = ModuleType(name)
    vars(made).update(contents)
    monkeypatch.setitem(sys.modules, name, made)


def test_the_cores_own_are_there() -> None:
    assert (callbacks.Callback, callbacks.Checkpoint, callbacks.LambdaCallback) == (
        Callback,
        Checkpoint,
        LambdaCallback,
    )


def test_a_name_comes_from_its_family_and_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = type("Timer", (Callback,), {})
    module(monkeypatch, "leyden_optim", Timer=timer)
    assert callbacks.Timer is timer
    module(monkeypatch, "leyden_optim")
    assert callbacks.Timer is timer


@pytest.mark.parametrize(("name", "family"), callbacks._FAMILY.items())
def test_a_missing_family_names_its_installation(monkeypatch: pytest.MonkeyPatch, name: str, family: str) -> None:
    monkeypatch.setitem(sys.modules, f"leyden_{family}", None)
    with pytest.raises(ImportError) as caught:
        getattr(callbacks, name)
    assert str(caught.value) == (
        f"{name} is in the distribution leyden-callbacks-{family}, which is not installed here. "
        f"To install it: pip install leyden-callbacks-{family}"
    )
    assert caught.value.name == f"leyden_{family}"


def test_a_family_that_lacks_the_name_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "leyden_optim")
    with pytest.raises(ImportError, match=r"pip install --upgrade leyden-callbacks-optim$"):
        _ = callbacks.Timer


def test_a_family_whose_own_requirement_is_missing_says_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'tqdm'", name="tqdm")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'tqdm'$"):
        _ = callbacks.TQDMProgressBar


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'EarlyStoping'\. Did you mean 'EarlyStopping'\?$"):
        getattr(callbacks, "EarlyStoping")  # noqa: B009


def test_dir_lists_every_name_without_importing_a_family() -> None:
    assert dir(callbacks) == sorted(callbacks.__all__)
    assert set(callbacks.__all__) == {*callbacks._FAMILY, "Callback", "Checkpoint", "LambdaCallback"}
    code = "import sys, leyden.callbacks as c; dir(c); print([n for n in sys.modules if n.startswith('leyden_')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
