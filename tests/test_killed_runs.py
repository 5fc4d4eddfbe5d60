"""A training that is killed at any operation on files has lost no checkpoint, and another goes on to the same end."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed_runs.py")


def newest_of_each_kind(steps: dict[str, int]) -> dict[str, int]:
    """The newest step by name without numbers: of the best of a folder, and of its ``last.ckpt``."""
    newest: dict[str, int] = {}
    for name, step in steps.items():
        kind = re.sub(r"\d", "", name)
        newest[kind] = max(step, newest.get(kind, 0))
    return newest


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
    newest: dict[str, int] = {}
    for each in killed:
        where = f"killed before {each['operation']}, left {each['there']}, ended with {each['end']}"
        steps = each["there"].values()
        assert -1 not in steps, where  # every file is whole
        if how != "asynchronous":  # on a thread the order of operations is not the same each time
            reached = newest_of_each_kind(each["there"])
            # What was there before goes after the new one is whole: the best does not wait for the newest.
            assert all(reached.get(kind, 0) >= step for kind, step in newest.items()), where
            newest |= reached
        assert each["failed"] == 0, where
        assert each["weights"] == whole["weights"], where
        assert each["left"] == [], where
        ends = [(name.replace("-v1", ""), step) for name, step in each["end"].items()]  # no earlier name is reused
        assert set(ends) >= set(whole["there"].items()), where
    assert set(newest.values()) == {6} or how == "asynchronous"
