"""Work on a thread of its own: its value, its error, and that the interpreter's exit waits for it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from leyden_checkpoint.background import Background


def test_what_the_call_raises_comes_out_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise OSError("no space left")

    work = Background(fail)
    work.wait()
    with pytest.raises(OSError, match="no space left"):
        work.result()


def test_who_was_interrupted_while_waiting_waits_again() -> None:
    waits, goes_on = threading.Event(), threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def interrupt_once(number: int, frame: object) -> None:
        if not goes_on.is_set():
            goes_on.set()
            raise KeyboardInterrupt

    def call() -> int:
        waits.wait()
        while not goes_on.wait(0.01):  # a signal that comes just before the main thread blocks does not wake it
            signal.pthread_kill(main, signal.SIGUSR1)
        finishes.wait()
        return 42

    def wait() -> None:
        waits.set()
        work.wait()

    finishes = threading.Event()
    before = signal.signal(signal.SIGUSR1, interrupt_once)
    try:
        work = Background(call)
        with pytest.raises(KeyboardInterrupt):
            wait()
        finishes.set()
        assert work.result() == 42
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_exit_of_the_interpreter_waits(tmp_path: Path) -> None:
    """The thread begins to write when the main thread has ended, and the file is whole nevertheless."""
    script = """
import threading, torch
from leyden.state import storage
from leyden_checkpoint.background import Background

def write():
    threading.main_thread().join()
    storage.save({"step": 7}, "late.ckpt")

Background(write)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    import torch

    assert torch.load(tmp_path / "late.ckpt", weights_only=True) == {"step": 7}
