"""A process that is killed, told to go or fails, and another that goes on: together they are one run."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import resumed_process
from tests.resumed_process import KINDS

PROCESSES = multiprocessing.get_context("forkserver")  # each is new, with nothing of this one, but need not import
PROCESSES.set_forkserver_preload([resumed_process.__name__, "pytest"])  # which each child would import again
STATUS = {"": 0, "kill": -9, "term": 143, "raise": 1}

Differences = Callable[[Any, Any], Iterable[str]]


def train(folder: Path, kind: str, seed: int, ckpt_path: str | None = None, stop: str = "", at: int = 0) -> None:
    """Run a process that ends as it should, with what it was told to do."""
    folder.mkdir(exist_ok=True)
    process = PROCESSES.Process(target=resumed_process.train, args=(folder, kind, seed, ckpt_path, stop, at))
    process.start()
    process.join(200)
    process.kill()
    assert process.exitcode == STATUS[stop]


def result(folder: Path) -> dict[str, Any]:
    end: dict[str, Any] = torch.load(folder / "end.pt", weights_only=False)
    return end


def seen(folder: Path) -> list[str]:
    return (folder / "seen.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the run of a kind that nothing cut."""

    @functools.cache
    def run(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("straight") / "run"
        train(folder, kind, 1)
        return folder

    return run


@pytest.mark.parametrize(
    ("stop", "at", "repeated"),
    [
        ("kill", 10, 2),  # within a validation that began after the last checkpoint
        ("term", 1, 0),  # in the middle of a window
        ("term", 4, 0),  # between batches of a validation
        ("raise", 10, 1),  # the batch that failed is repeated
    ],
)
def test_two_processes_are_one_run(
    tmp_path: Path, straight: Callable[[str], Path], named_differences: Differences, stop: str, at: int, repeated: int
) -> None:
    whole = straight("plain")
    train(tmp_path / "run", "plain", 1, stop=stop, at=at)
    first = len(seen(tmp_path / "run"))
    train(tmp_path / "run", "plain", 2, ckpt_path="auto")
    assert not list(named_differences(result(tmp_path / "run"), result(whole)))
    both = seen(tmp_path / "run")
    assert both[:first] == seen(whole)[:first]
    assert both[first:] == seen(whole)[first - repeated :]


FOLDERS = itertools.count()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=1, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop=st.sampled_from(["kill", "term", "raise"]), at=st.integers(1, 29))
def test_whatever_ends_a_process_another_goes_on_exactly(
    tmp_path: Path,
    straight: Callable[[str], Path],
    named_differences: Differences,
    kind: str,
    stop: str,
    at: int,
) -> None:
    """Training has 18 batches in 3 epochs, and 6 validations of 2; the run that is killed at the first has no file."""
    whole = straight(kind)
    folder = tmp_path / str(next(FOLDERS))
    train(folder, kind, 1, stop=stop, at=at)
    first = len(seen(folder))
    has_checkpoint = any(folder.glob("*.ckpt"))
    train(folder, kind, 2 if has_checkpoint else 1, ckpt_path="auto")
    assert not list(named_differences(result(folder), result(whole)))
    both = seen(folder)
    assert both[:first] == seen(whole)[:first]
    assert both[first:] == seen(whole)[len(seen(whole)) - len(both[first:]) :]
