"""Whose state is whose in a checkpoint: moved ones, left-over ones, and those of another version."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from leyden import Callback, MisconfigurationException, Trainer
from leyden.state.storage import load
from leyden.testing import BoringModule


class Watcher(Callback):
    """Has a key with an argument in it."""

    def __init__(self, monitor: str, value: int = 0) -> None:
        self.monitor, self.value, self.got = monitor, value, list[Any]()

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.got.append(state_dict)


class Other(Watcher):
    pass


def make(*callbacks: Callback, max_epochs: int = 1) -> Trainer:
    return Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=callbacks
    )


def saved(*callbacks: Callback) -> str:
    trainer = make(*callbacks)
    trainer.fit(BoringModule())
    trainer.save_checkpoint("a.ckpt")
    return "a.ckpt"


def resume(path: str, *callbacks: Callback) -> list[str]:
    """Fit on from a checkpoint; return the warnings that speak of states."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(*callbacks, max_epochs=2).fit(BoringModule(), ckpt_path=path)
    return [str(one.message) for one in caught if "state" in str(one.message)]


def test_a_state_that_moved_is_taken_and_told_of() -> None:
    path = saved(Watcher("a", 1), Watcher("b", 2), Other("a", 3))
    stays, moved = Watcher("b"), Watcher("c")
    (left, told) = sorted(resume(path, stays, moved), key=lambda message: "goes on" in message)
    assert (stays.got, moved.got) == ([{"value": 2}], [{"value": 1}])
    assert "Watcher{'monitor': 'c'} goes on from the state of Watcher{'monitor': 'a'}" in told
    assert "does not have: Other{'monitor': 'a'}. Add" in left
    assert "afresh" not in left


@pytest.mark.parametrize(
    ("written", "read", "named"),
    [
        (["a", "b"], ["c"], ["Watcher{'monitor': 'a'}, Watcher{'monitor': 'b'}", "afresh: Watcher{'monitor': 'c'}"]),
        (["a"], ["b", "c"], ["have: Watcher{'monitor': 'a'}", "Watcher{'monitor': 'b'}, Watcher{'monitor': 'c'}"]),
        (["a", "b"], ["c", "d"], ["Watcher{'monitor': 'a'}, Watcher{'monitor': 'b'}", "Watcher{'monitor': 'd'}"]),
    ],
)
def test_what_could_be_anybodys_is_nobodys_and_all_are_named(written: Any, read: Any, named: list[str]) -> None:
    callbacks = [Watcher(monitor) for monitor in read]
    (message,) = resume(saved(*map(Watcher, written)), *callbacks)
    assert all(part in message for part in named), message
    assert [callback.got for callback in callbacks] == [[] for _ in callbacks]


def test_a_state_goes_to_no_other_class() -> None:
    other = Other("b")
    (message,) = resume(saved(Watcher("a")), other)
    assert "does not have: Watcher{'monitor': 'a'}" in message
    assert other.got == []


def test_an_evaluation_leaves_moved_states_alone() -> None:
    path, moved = saved(Watcher("a")), Watcher("b")
    make(moved).validate(BoringModule(), ckpt_path=path, verbose=False)
    assert moved.got == []


class Second(Callback):
    """Its state was a number once, and is a list since version 2."""

    state_version = 2

    def __init__(self) -> None:
        self.got: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        return {"values": [1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.got.append(state_dict)

    def migrate_state(self, state_dict: dict[str, Any], from_version: int) -> dict[str, Any]:
        assert from_version == 1
        return {"values": [state_dict["value"]]}


def rewritten(path: str, state: Any, version: int | None) -> str:
    """Change the one state in a checkpoint, as another version of the class would have written it."""
    checkpoint = load(path)
    checkpoint["callbacks"] = {"Second": state}
    checkpoint["callback_versions"] = {"Second": version}
    if version is None:  # of before versions were kept
        del checkpoint["callback_versions"]
    torch.save(checkpoint, path)
    return path


def test_versions_stand_beside_the_states() -> None:
    checkpoint = load(saved(Second(), Watcher("a")))
    assert checkpoint["callback_versions"] == {"Second": 2, "Watcher{'monitor': 'a'}": 1}
    assert checkpoint["callbacks"]["Second"] == {"values": [1]}
    second = Second()
    assert resume("a.ckpt", second, Watcher("a")) == []
    assert second.got == [{"values": [1]}]


@pytest.mark.parametrize("version", [1, None])
def test_an_older_state_is_migrated_by_its_callback(version: int | None) -> None:
    second = Second()
    resume(rewritten(saved(Second()), {"value": 5}, version), second)
    assert second.got == [{"values": [5]}]


@pytest.mark.parametrize("fn", ["fit", "validate"])
def test_a_newer_state_is_refused(fn: str) -> None:
    path = rewritten(saved(Second()), {"v": 5}, 3)
    with pytest.raises(MisconfigurationException, match=r"Second is of version 3, but .* up to 2: .* Update"):
        getattr(make(Second(), max_epochs=2), fn)(BoringModule(), ckpt_path=path)


def test_an_error_in_reading_a_state_is_the_callbacks_own_and_says_from_which_file() -> None:
    path = rewritten(saved(Second()), {"other": 5}, 1)
    with pytest.raises(KeyError, match="value") as raised:
        make(Second(), max_epochs=2).fit(BoringModule(), ckpt_path=path)
    assert raised.value.__notes__ == ["It was reading its state from ckpt_path='a.ckpt': Second."]
