"""The example of pruning runs, prunes as much as it says, and its page shows what it prints."""

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
        [sys.executable, "-W", "error::UserWarning", ROOT / "examples" / "pruning.py"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = cells(done.stdout)
    page = (ROOT / "docs" / "pruning.md").read_text(encoding="utf-8")
    shown = cells(page.partition("```text")[2].partition("```")[0])
    assert [(row[0], row[2]) for row in printed] == [(row[0], row[2]) for row in shown]  # the rest is of the machine
    accuracy = {row[0]: float(row[1].rstrip("%")) for row in printed}
    assert accuracy["not pruned"] >= 97
    assert accuracy["smallest"] >= 95
    assert accuracy["smallest, lottery ticket"] >= 95
    assert accuracy["at random"] < accuracy["smallest"]
    size = {row[0]: float(row[3].removesuffix(" kB")) for row in printed}
    assert size["smallest"] * 3 < size["not pruned"]
