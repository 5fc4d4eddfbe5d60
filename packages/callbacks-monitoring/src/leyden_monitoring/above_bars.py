"""Keeps what a program prints and logs from tearing the bars it is drawn into."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TextIO

from leyden_monitoring.display import output_is_terminal

__all__ = ["AboveBars", "DisplayBelowText", "OutputGuard", "drawn_on"]

WriteLines = Callable[[str, TextIO], None]


class AboveBars:
    """Stands in for an output: passes whole lines to `write_line`, which puts them above the bars."""

    def __init__(self, stream: TextIO, write_line: WriteLines) -> None:
        self.stream = stream
        self._write_line: WriteLines | None = write_line
        self._begun = ""
        self._process = os.getpid()
        self._begins_line = True

    def write(self, text: str) -> int:
        """Write the lines that are whole now; a begun one waits, for the next drawing would overwrite it."""
        if self._write_line is None:  # somebody kept this object beyond the bars
            return self.stream.write(text)
        if os.getpid() != self._process:
            return self._write_from_fork(text)
        whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._write_line(whole + newline, self.stream)
        return len(text)

    def _write_from_fork(self, text: str) -> int:
        """Write what a worker of a dataloader prints, over the bar: the next drawing is below it.

        Bars and their locks are the training's. A thread that printed while the worker was forked left it locks that
        nobody will release, and it would hang.
        """
        self.stream.write(f"\r\x1b[K{text}" if self._begins_line else text)
        self._begins_line = text.endswith("\n")
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Write what was begun, when the bars are gone, and pass on everything from now on."""
        begun, self._begun, self._write_line = self._begun, "", None
        if begun:
            self.stream.write(begun)
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class OutputGuard:
    """Puts `AboveBars` in the place of ``sys.stdout`` and ``sys.stderr``, where they are terminals, until `remove`.

    Handlers of `logging` that hold one of the two, as those of ``logging.basicConfig()`` do, get it as well.
    """

    def __init__(self, write_line: WriteLines) -> None:
        self._placed: dict[str, AboveBars] = {}
        for name in ("stdout", "stderr"):
            stream: TextIO | None = getattr(sys, name)
            if stream is not None and output_is_terminal(stream):
                self._placed[name] = AboveBars(stream, write_line)
                setattr(sys, name, self._placed[name])
        for placed in self._placed.values():
            _redirect_logging(placed.stream, placed)

    def remove(self) -> None:
        """Put the outputs back, unless somebody else has replaced them meanwhile, and write what was begun."""
        for name, placed in self._placed.items():
            if getattr(sys, name) is placed:
                setattr(sys, name, placed.stream)
            _redirect_logging(placed, placed.stream)
        while self._placed:
            self._placed.popitem()[1].finish()


def _redirect_logging(old: Any, new: Any) -> None:
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    for logger in loggers:
        for handler in getattr(logger, "handlers", ()):  # a placeholder in the dict has none
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                with contextlib.suppress(Exception):  # flushing an output that was closed
                    handler.flush()
                handler.stream = new


class DisplayBelowText(ABC):
    """What displays share that draw below what the program writes meanwhile."""

    def __init__(self) -> None:
        self._guard = OutputGuard(self._write_lines)

    @abstractmethod
    def _hidden(self) -> AbstractContextManager[Any]:
        """Take the bars from the screen within the context, and put them back."""

    def write(self, text: str, file: TextIO) -> None:
        if isinstance(file, AboveBars) or not output_is_terminal(file):
            file.write(text)
        else:
            self._write_lines(text, file)

    def _write_lines(self, lines: str, file: TextIO) -> None:
        with _without_errors(self._hidden()):
            file.write(lines)
            file.flush()


@contextlib.contextmanager
def _without_errors(hidden: AbstractContextManager[Any]) -> Iterator[None]:
    """Who prints has nothing to do with a bar that cannot be drawn; the next drawing reports it."""
    stack = contextlib.ExitStack()
    with contextlib.suppress(Exception):
        stack.enter_context(hidden)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            stack.close()


def drawn_on() -> TextIO:
    """Return the standard output itself, past an `AboveBars`."""
    return sys.stdout.stream if isinstance(sys.stdout, AboveBars) else sys.stdout
