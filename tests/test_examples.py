"""The example that `hatch run demo` runs: it learns, says where everything is, and goes on from its checkpoint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DIGITS = Path(__file__).parents[1] / "examples" / "digits.py"


def run(*arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", DIGITS, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said(printed: str, what: str) -> str:
    (value,) = re.findall(rf"^{what}: +(.*)$", printed, flags=re.MULTILINE)
    assert isinstance(value, str)
    return value


def test_digits_learns_and_goes_on_from_its_best_checkpoint() -> None:
    printed = run()
    order = ["LearningRateMonitor", "BackboneFinetuning", "TQDMProgressBar", "EarlyStopping", "ModelCheckpoint"]
    assert re.findall(r"^│ [1-5] │ (\w+)", printed, flags=re.MULTILINE) == order
    assert float(said(printed, "Test accuracy").partition("%")[0]) >= 97
    best = said(printed, "Best checkpoint").partition(" (")[0]
    assert Path(best).is_file()
    assert (Path(said(printed, "Logs")) / "metrics.csv").is_file()

    resumed = run("--resume", best, "--max-epochs", "40")
    assert float(said(resumed, "Test accuracy").partition("%")[0]) >= 97
    assert said(resumed, "Logs") == said(printed, "Logs")  # the interrupted run goes on, in its own folder
