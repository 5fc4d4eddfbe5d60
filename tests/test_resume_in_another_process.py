"""A process that is killed, told to go or fails, and another that goes on: together they are one run."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SCRIPT = Path(__file__).with_name("resumed_process.py")


def train(folder: Path, seed: int, ckpt_path: str = "", stop: str = "", at: int = 0, workers: int = 0) -> int:
    """Run a process to its end and return how it ended."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(SCRIPT), str(folder), str(seed), ckpt_path, stop, str(at), str(workers)]
    return subprocess.run(command, capture_output=True, timeout=200, check=False).returncode


def result(folder: Path) -> dict[str, Any]:
    end: dict[str, Any] = torch.load(folder / "end.pt", weights_only=False)
    return end


def seen(folder: Path) -> list[str]:
    return (folder / "seen.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert train(folder, 1) == 0
    return folder


@pytest.fixture(scope="module")
def straight_with_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight_with_workers") / "run"
    assert train(folder, 1, workers=2) == 0
    return folder


@pytest.mark.parametrize(
    ("stop", "at", "status", "repeated"),
    [
        ("kill", 12, -9, 3),  # within a validation that began after the last checkpoint
        ("term", 1, 143, 0),  # in the middle of a window
        ("term", 5, 143, 0),  # between batches of a validation
        ("raise", 10, 1, 1),  # the batch that failed is repeated
    ],
)
def test_two_processes_are_one_run(
    tmp_path: Path,
    straight: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    stop: str,
    at: int,
    status: int,
    repeated: int,
) -> None:
    assert train(tmp_path / "run", 1, stop=stop, at=at) == status
    first = len(seen(tmp_path / "run"))
    assert train(tmp_path / "run", 2, ckpt_path="auto") == 0
    assert not list(named_differences(result(tmp_path / "run"), result(straight)))
    both, whole = seen(tmp_path / "run"), seen(straight)
    assert both[:first] == whole[:first]
    assert both[first:] == whole[first - repeated :]


FOLDERS = itertools.count()


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.sampled_from(["kill", "term", "raise"]), at=st.integers(1, 27), workers=st.sampled_from([0, 2]))
def test_whatever_ends_a_process_another_goes_on_exactly(
    tmp_path: Path,
    straight: Path,
    straight_with_workers: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    stop: str,
    at: int,
    workers: int,
) -> None:
    """Training has 18 batches in 3 epochs, and 6 validations of 3; the run that is killed at the first has no file."""
    whole = straight_with_workers if workers else straight
    folder = tmp_path / str(next(FOLDERS))
    status = {"kill": -9, "term": 143, "raise": 1}[stop]
    assert train(folder, 1, stop=stop, at=at, workers=workers) == status
    first = len(seen(folder))
    has_checkpoint = any(folder.glob("*.ckpt"))
    assert train(folder, 2 if has_checkpoint else 1, ckpt_path="auto", workers=workers) == 0
    assert not list(named_differences(result(folder), result(whole)))
    both = seen(folder)
    assert both[:first] == seen(whole)[:first]
    assert both[first:] == seen(whole)[len(seen(whole)) - len(both[first:]) :]
