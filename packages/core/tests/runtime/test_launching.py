"""Where a script can't be started again, and what is said of that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from leyden import MisconfigurationException, Trainer
from leyden.runtime.launching import check_can_launch, tell_of_failure
from leyden.runtime.places import LAUNCHED_VARIABLE


def refusal() -> str:
    with pytest.raises(MisconfigurationException) as caught:
        Trainer(devices=2, accelerator="cpu", logger=False, discover_callbacks=False)
    message = str(caught.value)
    assert message.startswith("Trainer(devices=2) starts the running script once for each process, but this is ")
    assert message.endswith(
        ". Put the training into a script, or start it by torchrun; strategy='ddp_fork' forks the processes from here "
        "where no CUDA device is in use yet."
    )
    return message.split("but this is ")[1].partition(". Put")[0]


def test_where_there_is_no_script(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal() == "a test"
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert refusal() == "an interactive session"
    monkeypatch.delattr(sys, "ps1")
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert refusal() == "an interactive session"
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    assert refusal() == "no script (python -c, or read from standard input)"
    for read_once in ("<stdin>", os.devnull):  # what `python - < script.py` and a pipe have
        monkeypatch.setattr(sys.modules["__main__"], "__file__", read_once, raising=False)
        assert refusal() == "no script (python -c, or read from standard input)"


def test_in_a_thread_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(refusal()))
    thread.start()
    thread.join()
    assert found == ["a thread beside the main one"]


def test_a_script_can_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # as in a script that a test runs
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)  # xdist's has none
    check_can_launch("Trainer(devices=2)")


def failures(folder: Path, *codes: int, said: int | None = None) -> ChildFailedError:
    """What torch's launcher raises: exit codes by process, one of which has written what was wrong."""
    files = [folder / f"{rank}.json" for rank in range(len(codes))]
    if said is not None:
        files[said].write_text(json.dumps({"message": {"message": "x", "extraInfo": {"timestamp": "2000000000"}}}))
    return ChildFailedError(
        "script.py", {rank: ProcessFailure(rank, 1, code, str(files[rank])) for rank, code in enumerate(codes)}
    )


@pytest.mark.parametrize(
    ("codes", "said", "code", "told"),
    [
        ((1, 3), 1, 3, "Process 1 of 2 failed, with exit code 3."),
        ((1, 1), 0, 1, "Process 0 of 2 failed, with exit code 1."),
        ((1, -9), None, 137, "Process 1 of 2 was ended by SIGKILL; where nobody sent it, memory was full."),
        ((-15, -11), None, 139, "Process 1 of 2 was ended by SIGSEGV."),
        ((-15, 143), None, 143, "Process 1 of 2 ended as SIGTERM asked it to, with exit code 143."),
        ((1, -15), 1, 1, "Process 1 of 2 failed, with exit code 1."),  # the other was faster on the way out
    ],
)
def test_the_first_that_failed_is_named(
    codes: tuple[int, ...], said: int | None, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not those that failed by its absence, or that the launcher ended."""
    assert tell_of_failure(failures(tmp_path, *codes, said=said), len(codes)) == code
    assert capsys.readouterr().err == f"{told}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems send nothing")
def test_who_comes_up_after_its_launcher_is_gone_ends() -> None:
    """The system would send nothing then."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    code = "from leyden.runtime.launching import end_with_launcher; end_with_launcher(); print('goes on')"
    ended = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, LAUNCHED_VARIABLE: str(launcher)}, capture_output=True,
            text=True, check=False,
        )
        for launcher in (gone.pid, os.getpid())
    ]  # fmt: skip
    assert [(one.returncode, one.stdout) for one in ended] == [(-signal.SIGTERM, ""), (0, "goes on\n")]
