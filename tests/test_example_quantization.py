"""The example of quantisation runs, makes the model as small as it says, and its page shows what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rows_of(text: str) -> dict[str, tuple[float, float]]:
    """Return accuracy in percent and kilobytes of each model in a table."""
    found = re.findall(r"^│ (float32|int8) +│ ([\d.]+)% +│ (\d+) kB +│", text, flags=re.MULTILINE)
    return {name: (float(accuracy), float(kilobytes)) for name, accuracy, kilobytes in found}


def check(rows: dict[str, tuple[float, float]]) -> None:
    (accuracy, kilobytes), (of_int8, kilobytes_of_int8) = rows["float32"], rows["int8"]
    assert of_int8 >= accuracy - 1
    assert kilobytes >= 3.5 * kilobytes_of_int8


def test_the_int8_model_is_as_good_and_much_smaller() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "quantization.py", "--max-epochs", "4"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    rows = rows_of(done.stdout)
    check(rows)
    assert rows["float32"][0] >= 95

    page = rows_of((ROOT / "docs" / "callbacks" / "quantization_aware_training.md").read_text(encoding="utf-8"))
    check(page)
    assert [kilobytes for _, kilobytes in page.values()] == [kilobytes for _, kilobytes in rows.values()]
