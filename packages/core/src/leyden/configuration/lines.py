"""On which line of a TOML file each key stands: `tomllib` reads values and tells no lines."""

from __future__ import annotations

import bisect
import re

__all__ = ["KeyPath", "key_lines"]

KeyPath = tuple[str | int, ...]
"""The keys that lead to a value; a number is a place in an array."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK_OR_COMMA = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:[^"\\]|\\.)*"'),
    re.compile(r"'[^']*'"),
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, from 1, of every key, table and element of an array in `text`, which must be valid TOML.

    A table that is named by several headers has the line of its own where there is one, else of the first.

    Example:
        >>> key_lines('[callbacks.Timer]\\nduration = "00:12:00:00"\\nextra.interval = "step"')
        {('callbacks',): 1, ('callbacks', 'Timer'): 1, ('callbacks', 'Timer', 'duration'): 2, \
('callbacks', 'Timer', 'extra'): 3, ('callbacks', 'Timer', 'extra', 'interval'): 3}
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    """Walks over a document once, noting where keys begin."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._last_of: dict[KeyPath, int] = {}  # the number of the last table of each array of tables
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> KeyPath:
        line = self._line()
        double = self._text.startswith("[[", self._at)
        self._at += 2 if double else 1
        keys = self._key()
        self._at += 2 if double else 1
        path: KeyPath = ()
        for number, key in enumerate(keys, start=1):
            path = (*path, key)
            self.lines.setdefault(path, line)
            if double and number == len(keys):
                self._last_of[path] = self._last_of.get(path, -1) + 1
            if path in self._last_of:
                path = (*path, self._last_of[path])
                self.lines.setdefault(path, line)
        self.lines[path] = line
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._at += 1  # the "=" that _key stops at
        self._value(path)

    def _key(self) -> list[str]:
        """Read a key with its dots; the place is then behind it and the spaces after it."""
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            if self._text[self._at] in "\"'":
                keys.append(_unquoted(self._string()))
            else:
                start = self._at
                self._skip(_BARE_KEY)
                keys.append(self._text[start : self._at])
            self._skip(_SPACE)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        first = self._text[self._at]
        if first in "\"'":
            self._string()
        elif first == "[":
            self._at += 1
            self._skip(_BLANK_OR_COMMA)
            number = 0
            while self._text[self._at] != "]":
                self.lines[(*path, number)] = self._line()
                self._value((*path, number))
                number += 1
                self._skip(_BLANK_OR_COMMA)
            self._at += 1
        elif first == "{":
            self._at += 1
            self._skip(_BLANK_OR_COMMA)
            while self._text[self._at] != "}":
                self._pair(path)
                self._skip(_BLANK_OR_COMMA)
            self._at += 1
        else:
            self._skip(_SCALAR)

    def _string(self) -> str:
        for pattern in _STRINGS:
            if match := pattern.match(self._text, self._at):
                self._at = match.end()
                return match[0]
        raise ValueError(f"line {self._line()}: a string does not end")

    def _skip(self, pattern: re.Pattern[str]) -> None:
        if match := pattern.match(self._text, self._at):
            self._at = match.end()

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self._at) + 1


def _unquoted(key: str) -> str:
    if "\\" not in key:
        return key[1:-1]
    import tomllib

    text: str = tomllib.loads(f"key = {key}")["key"]
    return text
