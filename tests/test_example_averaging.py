"""The example of averaging runs, an average is the better model, and its page shows what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def cells(text: str) -> list[list[str]]:
    """Return the cells of the rows of a table, without its header."""
    rows = [line for line in text.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows][1:]


def test_the_example_prints_a_table_like_that_of_its_page() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", ROOT / "examples" / "averaging.py"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = cells(done.stdout)
    page = (ROOT / "docs" / "averaging.md").read_text(encoding="utf-8")
    shown = cells(page.partition("```text")[2].partition("```")[0])
    assert [row[0] for row in printed] == [row[0] for row in shown]  # the rest is of the machine
    none, *averaged = [float(row[1].rstrip("%")) for row in printed]
    assert all(accuracy > none for accuracy in averaged)
    assert averaged[0] >= 97
