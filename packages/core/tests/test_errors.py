"""Errors are of the kinds their catchers expect, and a misspelt name finds the one that was meant."""

from __future__ import annotations

import subprocess
import sys

import pytest

from leyden.errors import MisconfigurationException, SIGTERMException, UnknownArgumentError, did_you_mean


@pytest.mark.parametrize(
    ("name", "hint"),
    [("max_epoch", " Did you mean 'max_epochs'?"), ("maxsteps", " Did you mean 'max_steps'?"), ("gpus", ""), ("", "")],
)
def test_the_nearest_name_is_offered_where_one_is_near(name: str, hint: str) -> None:
    assert did_you_mean(name, ["max_epochs", "max_steps"]) == hint


def test_an_unknown_argument_is_both_errors() -> None:
    assert issubclass(UnknownArgumentError, MisconfigurationException)
    assert issubclass(UnknownArgumentError, TypeError)


def test_sigterm_left_alone_ends_the_process_with_its_code() -> None:
    assert issubclass(SIGTERMException, SystemExit)
    script = "from leyden.errors import SIGTERMException; raise SIGTERMException()"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (143, b"")
