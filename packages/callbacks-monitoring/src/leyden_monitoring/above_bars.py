"""Keeps what a program prints from tearing the bars it is drawn into."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO

__all__ = ["AboveBars", "OutputGuard"]


class AboveBars:
    """Stands in for an output: passes whole lines to `write_line`, which puts them above the bars."""

    def __init__(self, stream: TextIO, write_line: Callable[[str, TextIO], None]) -> None:
        self.stream = stream
        self._write_line = write_line
        self._begun = ""

    def write(self, text: str) -> int:
        """Write the lines that are whole now; a begun one waits, for the next drawing would overwrite it."""
        whole, newline, self._begun = (self._begun + text).rpartition("\n")
        if newline:
            self._write_line(whole + newline, self.stream)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def finish(self) -> None:
        """Write what was begun, when the bars are gone."""
        begun, self._begun = self._begun, ""
        if begun:
            self.stream.write(begun)
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class OutputGuard:
    """Puts `AboveBars` in the place of ``sys.stdout`` and ``sys.stderr``, where they are terminals, until `remove`."""

    def __init__(self, write_line: Callable[[str, TextIO], None]) -> None:
        self._placed: dict[str, AboveBars] = {}
        for name in ("stdout", "stderr"):
            stream: TextIO | None = getattr(sys, name)
            if stream is not None and stream.isatty():
                self._placed[name] = AboveBars(stream, write_line)
                setattr(sys, name, self._placed[name])

    def remove(self) -> None:
        """Put the outputs back, unless somebody else has replaced them meanwhile, and write what was begun."""
        for name, placed in self._placed.items():
            if getattr(sys, name) is placed:
                setattr(sys, name, placed.stream)
            placed.finish()
        self._placed.clear()
