"""What commands print: text that cannot move the cursor, tables as wide as the terminal, JSON for other programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import TextIO

from leyden.tables import render_table

__all__ = ["one_line", "paragraph", "plain", "say", "say_json", "size", "table", "terminal_width"]


def plain(text: object) -> str:
    """Return text from files and from other people's packages in one line that cannot steer a terminal.

    Example:
        >>> plain("\\x1b[31mred\\nalert")
        '�[31mred�alert'
    """
    return "".join(sign if sign.isprintable() else "�" for sign in str(text))


def one_line(text: object) -> str:
    """Return what an error or a warning says, however many lines it takes for it."""
    return plain(" ".join(str(text).split()))


def say(text: str, stream: TextIO | None = None) -> None:
    """Print on stdout, or on `stream`; signs that it has no encoding for become question marks."""
    stream = sys.stdout if stream is None else stream
    if stream is None:  # the process was started with it closed
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), file=stream)


def say_json(value: object) -> None:
    """Print a value as JSON, in ASCII."""
    print(json.dumps(value, indent=2))


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as wide as the terminal, or where names are too long for that a paragraph per row.

    Its cells may come from anywhere.
    """
    cells = [[plain(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    width = terminal_width()
    drawn = render_table(headers, cells, width=width)
    head = [paragraph(title)] if title else []
    if width is None or max(map(len, drawn.splitlines())) <= width:
        return "\n".join([*head, drawn])
    lines = [*head, ""] if title else []
    for row in cells:
        lines.append(str(row[0]))
        lines += [paragraph(f"  {header}: {cell}") for header, cell in zip(headers[1:], row[1:], strict=True) if cell]
    return "\n".join(lines)


def paragraph(text: str, indent: int = 4) -> str:
    """Return a line as `plain` text, cut between words where the terminal ends; what follows is indented."""
    width = terminal_width()
    if width is None or len(text) <= width:
        return plain(text)
    spaces = " " * (indent if width > 2 * indent else 0)
    return "\n".join(wrap(plain(text), width, subsequent_indent=spaces, break_long_words=False))


def size(count: int) -> str:
    """Return bytes in a unit that leaves at most three digits before the point.

    Example:
        >>> size(999), size(1_500_000)
        ('999 B', '1.5 MB')
    """
    amount, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 999.95 and len(units) > 1:
        amount /= 1000
        del units[0]
    return f"{count} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def terminal_width() -> int | None:
    """Return the columns of the terminal, or ``COLUMNS``; None where there is neither: `grep` wants whole lines."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError, AttributeError):  # a pipe, a file, no file, or no stdout at all
        return None
