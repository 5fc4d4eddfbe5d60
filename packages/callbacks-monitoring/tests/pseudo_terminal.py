"""A pseudo-terminal whose screen tests read, with the module and the trainer that they run on it.

A test module that imports the fixtures has them; it names them in its ``__all__``, so that they count as used.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pyte
import pytest
from torch import Tensor

from leyden import Callback, Trainer
from leyden.testing.models import BoringModule
from leyden_monitoring import live_progress

__all__ = ["Clock", "Look", "Model", "Terminal", "always_due_fixture", "make_trainer", "terminal_fixture"]


class Terminal:
    """A pseudo-terminal in the place of standard output and error; what is written to it is read by a thread."""

    def __init__(
        self, rows: int = 12, columns: int = 100, size: tuple[int, int] | None = None, encoding: str = "utf-8"
    ) -> None:
        """Of `rows` and `columns`; it tells `size`, where that is given. `encoding` is that of the outputs."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *(size or (rows, columns)), 0, 0))
        self.stdout = os.fdopen(os.dup(slave), "w", encoding=encoding)
        self.stderr = os.fdopen(slave, "w", buffering=1, encoding=encoding)
        self.raw = ""
        self.put: Callable[[str, Any], None] = partial(setattr, sys)
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self._marks, self._seen = master, 0, threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def place(self) -> None:
        """Take the place of the outputs; from within a test, for pytest puts its own there when one begins."""
        self.put("stdout", self.stdout)
        self.put("stderr", self.stderr)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the last writer has closed it
                return
            with self._seen:
                self._stream.feed(data)
                self.raw += data.decode(errors="replace")
                self._seen.notify()

    @property
    def lines(self) -> list[str]:
        """The screen's lines that are not empty, once all that was written has arrived."""
        self._marks += 1
        mark = f"\x1b]2;{self._marks}\x07"  # sets the window's title: not seen on the screen
        os.write(self.stderr.fileno(), mark.encode())
        with self._seen:
            assert self._seen.wait_for(lambda: mark in self.raw, timeout=30)
            return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column of the cursor."""
        assert self.lines is not None
        return self._screen.cursor.y, self._screen.cursor.x

    @property
    def cursor_hidden(self) -> bool:
        """Whether the cursor is hidden."""
        assert self.lines is not None
        return bool(self._screen.cursor.hidden)

    def colours(self, row: int) -> list[tuple[str, str]]:
        """The colours of a line from left to right, each with the text that has it."""
        assert self.lines is not None
        cells = [self._screen.buffer[row][column] for column in range(self._screen.columns)]
        runs = itertools.groupby(cells, key=lambda cell: cell.fg)
        return [(colour, "".join(cell.data for cell in run)) for colour, run in runs]

    @property
    def display(self) -> list[str]:
        """All lines, as of the last look at `lines`."""
        return list(self._screen.display)

    def forget_stdout(self) -> None:
        """Take back what could not be written, so that closing does not try again."""
        os.dup2(self.stderr.fileno(), self.stdout.fileno())

    def close(self) -> None:
        for stream in (self.stdout, self.stderr):
            if not stream.closed:
                stream.close()
        self._reader.join()
        os.close(self._master)


@pytest.fixture(name="terminal")
def terminal_fixture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for variable in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    made = Terminal(**getattr(request, "param", {}))
    made.put = partial(monkeypatch.setattr, sys)
    yield made
    monkeypatch.undo()
    made.close()


class Clock:
    """A clock that goes on by `step_s` each time it is looked at."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


class Model(BoringModule):
    """Logs its losses for the bar."""

    def __init__(self, train: int = 4, val: int = 2) -> None:
        super().__init__(batches={"train": train, "val": val, "test": 3, "predict": 3})

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("a", float(batch_idx), prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("b", 0.25, prog_bar=True)

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch)


class Look(Callback):
    """Looks at the screen when a hook is called."""

    runs_after = ("TQDMProgressBar", "RichProgressBar")
    position = "monitor"

    def __init__(self, terminal: Terminal, *hooks: str) -> None:
        self.seen: list[tuple[str, list[str]]] = []
        for hook in hooks:
            setattr(self, hook, lambda *args, hook=hook: self.seen.append((hook, terminal.lines)))


def make_trainer(terminal: Terminal, *callbacks: Callback, **settings: Any) -> Trainer:
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "logger": False, "discover_callbacks": False} | settings
    terminal.place()
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **options)


@pytest.fixture(name="always_due")
def always_due_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by whenever the bar looks at the clock: each batch draws."""
    monkeypatch.setattr(live_progress, "monotonic", Clock(1.0))
    monkeypatch.setattr(live_progress, "perf_counter", lambda: 0.0)
