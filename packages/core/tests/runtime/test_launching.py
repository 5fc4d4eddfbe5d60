"""Where a script can't be started again, and what is said of that."""

from __future__ import annotations

import sys
import threading
from types import ModuleType
from typing import Any

import pytest

from leyden import MisconfigurationException, Trainer
from leyden.runtime.launching import check_can_launch


def refusal() -> str:
    with pytest.raises(MisconfigurationException) as caught:
        Trainer(devices=2, accelerator="cpu", logger=False, discover_callbacks=False)
    message = str(caught.value)
    assert message.startswith("Trainer(devices=2) starts the running script once for each process, but this is ")
    assert message.endswith(
        ". Put the training into a script, or start it by torchrun; strategy='ddp_fork' forks the processes from here "
        "where no CUDA device is in use yet."
    )
    return message.split("but this is ")[1].partition(". Put")[0]


def test_where_there_is_no_script(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal() == "a test"
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert refusal() == "an interactive session"
    monkeypatch.delattr(sys, "ps1")
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert refusal() == "an interactive session"
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    assert refusal() == "no script (python -c, or read from standard input)"


def test_in_a_thread_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(refusal()))
    thread.start()
    thread.join()
    assert found == ["a thread beside the main one"]


def test_a_script_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # as in a script that a test runs
    check_can_launch("Trainer(devices=2)")
