"""A training that is killed at any operation on files has lost no checkpoint, and another goes on to the same end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed_runs.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.parametrize("how", ["file", "link", "newest", "asynchronous", "two", "only last"])
def test_killed_at_any_operation_no_checkpoint_is_lost(how: str) -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), how], capture_output=True, text=True, timeout=400, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    whole, killed = seen["whole"], seen["killed"]
    assert whole["lost"] == []  # to a power cut: bytes and names are flushed before anything is removed
    assert whole["others"] == []  # what is watched is all that is done
    assert {"write", "fsync", "replace", "scandir"} <= {each["operation"] for each in killed}
    newest = 0
    for each in killed:
        where = f"killed before {each['operation']}, left {each['there']}, ended with {each['end']}"
        steps = each["there"].values()
        assert -1 not in steps, where  # every file is whole
        if how != "asynchronous":  # on a thread the order of operations is not the same each time
            assert max(steps, default=0) >= newest, where  # what was there before goes after the new one is whole
            newest = max(steps, default=0)
        assert each["failed"] == 0, where
        assert each["weights"] == whole["weights"], where
        assert each["left"] == [], where
        ends = [(name.replace("-v1", ""), step) for name, step in each["end"].items()]  # no earlier name is reused
        assert set(ends) >= set(whole["there"].items()), where
    assert newest == 6 or how == "asynchronous"
