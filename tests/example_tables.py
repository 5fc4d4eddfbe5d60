"""The table that an example prints, beside the one on its page."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["tables_of"]

ROOT = Path(__file__).parents[1]


def tables_of(name: str, page: str) -> tuple[list[list[str]], list[list[str]]]:
    """Run the example; return the cells of what it prints and of what a page of `docs` shows, without headers."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", ROOT / "examples" / f"{name}.py"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = _cells(done.stdout)
    blocks = (ROOT / "docs" / page).read_text(encoding="utf-8").split("```text")[1:]
    (shown,) = [cells for block in blocks if (cells := _cells(block.partition("```")[0]))[:1] == printed[:1]]
    return printed[1:], shown[1:]


def _cells(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
