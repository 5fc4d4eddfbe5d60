"""Plain tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap

__all__ = ["evaluation_table", "render_table"]

_SUFFIX = re.compile(r"/dataloader_idx_\d+$")


def render_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", width: int | None = None
) -> str:
    """Return a table as text; numbers stand to the right, everything else to the left.

    Args:
        headers: one per column.
        rows: their cells; floats get six significant digits.
        title: a line above.
        width: columns of the terminal. Cells are wrapped between words to fit; names stay whole, in a wider table.

    Example:
        >>> print(render_table(["hook", "seconds"], [["setup", 0.5], ["on_fit_start", 12.0]]))
        ┌──────────────┬─────────┐
        │ hook         │ seconds │
        ├──────────────┼─────────┤
        │ setup        │     0.5 │
        │ on_fit_start │    12.0 │
        └──────────────┴─────────┘
    """
    cells = [list(headers), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        widths = _fitted(list(zip(*cells, strict=True)), widths, width - 3 * len(widths) - 1)
    right = [any(_is_number(row[i]) for row in rows) and all(_is_number(row[i]) or row[i] == "" for row in rows)
             for i in range(len(headers))]  # fmt: skip

    def line(left: str, middle: str, end: str) -> str:
        return left + middle.join("─" * (width + 2) for width in widths) + end

    def texts(row: Sequence[str]) -> Iterator[str]:
        for parts in zip_longest(*(_wrapped(cell, w) for cell, w in zip(row, widths, strict=True)), fillvalue=""):
            padded = [p.rjust(w) if r else p.ljust(w) for p, w, r in zip(parts, widths, right, strict=True)]
            yield "│ " + " │ ".join(padded) + " │"

    body = [text for row in cells[1:] for text in texts(row)]
    lines = [line("┌", "┬", "┐"), *texts(cells[0]), line("├", "┼", "┤"), *body, line("└", "┴", "┘")]
    if title:
        lines.insert(0, title)
    return "\n".join(lines)


def evaluation_table(stage: str, results: Sequence[dict[str, float]]) -> str:
    """Return the results of ``Trainer.validate`` or ``Trainer.test`` with a column per dataloader, "" without any.

    Example:
        >>> print(evaluation_table("test", [{"test_loss": 0.25, "test_acc": 0.9375}]))
        ┌─────────────┬──────────────┐
        │ test metric │ dataloader 0 │
        ├─────────────┼──────────────┤
        │ test_acc    │       0.9375 │
        │ test_loss   │         0.25 │
        └─────────────┴──────────────┘
    """
    columns = [{_SUFFIX.sub("", name): value for name, value in result.items()} for result in results]
    names = sorted({name for column in columns for name in column})
    if not names:
        return ""
    headers = [f"{stage} metric", *(f"dataloader {index}" for index in range(len(columns)))]
    return render_table(headers, [[name, *(column.get(name, "") for column in columns)] for name in names])


def _fitted(columns: Sequence[Sequence[str]], widths: Sequence[int], room: int) -> list[int]:
    """Return the widths made smaller, the largest first, until they fit or hold the longest words and no more."""
    fitted = list(widths)
    floors = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns]
    while sum(fitted) > room:
        largest = max(range(len(fitted)), key=lambda i: (fitted[i] > floors[i], fitted[i]))
        if fitted[largest] <= floors[largest]:
            break
        fitted[largest] -= 1
    return fitted


def _wrapped(cell: str, width: int) -> list[str]:
    return [cell] if len(cell) <= width else wrap(cell, width, break_on_hyphens=False)


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    text = f"{cell:.6g}"
    return f"{text}.0" if text.lstrip("-").isdigit() else text
