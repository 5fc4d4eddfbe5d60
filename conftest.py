"""What every test starts from: one thread, no discovered callbacks, a working folder of its own.

It stands at the root because doctests of the sources are tests too, and no test folder is above them.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: its thread pool reads it once
# torch's store asks for the name of whoever connects, and serves nobody until there is an answer.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

import pytest
import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep what was collected, half a million objects, out of every garbage collection of the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No callbacks from entry points, nothing of the caller's settings, files only under a temporary folder."""
    monkeypatch.setenv("LEYDEN_CALLBACKS", "off")
    for name in ("LEYDEN_CONFIG", "LEYDEN_SEED", "LEYDEN_SEED_WORKERS", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
