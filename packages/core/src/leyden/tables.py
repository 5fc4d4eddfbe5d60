"""Plain tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["evaluation_table", "render_table"]

_SUFFIX = re.compile(r"/dataloader_idx_\d+$")


def render_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "") -> str:
    """Return a table as text; numbers stand to the right, everything else to the left.

    Example:
        >>> print(render_table(["hook", "seconds"], [["setup", 0.5], ["on_fit_start", 12.0]]))
        ┌──────────────┬─────────┐
        │ hook         │ seconds │
        ├──────────────┼─────────┤
        │ setup        │     0.5 │
        │ on_fit_start │    12.0 │
        └──────────────┴─────────┘
    """
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]
    right = [any(_is_number(row[i]) for row in rows) and all(_is_number(row[i]) or row[i] == "" for row in rows)
             for i in range(len(headers))]  # fmt: skip

    def line(left: str, middle: str, end: str) -> str:
        return left + middle.join("─" * (width + 2) for width in widths) + end

    def text(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return "│ " + " │ ".join(parts) + " │"

    lines = [line("┌", "┬", "┐"), text(list(headers)), line("├", "┼", "┤"), *map(text, cells), line("└", "┴", "┘")]
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


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    text = f"{cell:.6g}"
    return f"{text}.0" if text.lstrip("-").isdigit() else text
