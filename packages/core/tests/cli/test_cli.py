"""The command `leyden` as a whole: its errors, its exit status, its behaviour in a pipe and without a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from leyden.cli import main

COMMAND = [sys.executable, "-c", "import sys; from leyden.cli import main; sys.exit(main(sys.argv[1:]))"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("arguments", [[], ["checkpoint"], ["checkpoint", "show"], ["chekpoint"], ["hooks", "a", "b"]])
def test_wrong_usage_is_one_line_and_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n")) == (2, 1)
    assert err.startswith("leyden: error: ")
    assert "--help" in err


def test_the_distribution_installs_the_command() -> None:
    (script,) = [one for one in entry_points(group="console_scripts") if one.name == "leyden"]
    assert script.value == "leyden.cli:main"
    assert script.load() is main


@pytest.mark.parametrize("arguments", [["--help"], ["hooks", "--help"], ["checkpoint", "verify", "--help"]])
def test_help_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert out.startswith(f"usage: leyden {' '.join(arguments[:-1])}".rstrip())


def test_the_process_exits_with_what_main_returns(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import leyden\nclass Mine(leyden.Callback):\n    def on_fit_end(self, x): ...\n")
    for arguments, status, errors in (
        (["hooks", "on_fit_end"], 0, 0),
        (["hooks", "--of", "mine:Mine"], 1, 0),
        (["hooks", "--of", "mine:Yours"], 2, 1),
        (["hooks", "on_fit_ends"], 2, 1),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stderr.count(b"\n")) == (status, errors), arguments
        assert bool(done.stdout) is (errors == 0)


def test_a_reader_that_has_enough_is_no_error() -> None:
    process = subprocess.Popen([*COMMAND, "hooks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.wait(), process.stderr.read()) == (0, b"")
    process.stderr.close()


@pytest.mark.parametrize(("arguments", "status"), [(["hooks"], 0), (["doctor"], 0), (["hooks", "coffee"], 2)])
def test_without_stdout_the_status_is_all_that_is_told(arguments: list[str], status: int) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (status, status // 2)


def test_a_full_disk_is_an_error_in_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*COMMAND, "hooks"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"leyden: error: ")
    assert b"No space left on device" in done.stderr


def test_an_output_without_the_signs_of_a_table_gets_question_marks() -> None:
    done = run("hooks", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\n? on_fit_start" in done.stdout


def test_ctrl_c_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt")
    assert main(["hooks", "--of", "slow.py:Mine"]) == 130


@pytest.mark.parametrize("columns", [40, 90])
def test_on_a_terminal_no_line_is_longer_than_it_is_wide(columns: int) -> None:
    terminal, process_side = pty.openpty()
    fcntl.ioctl(process_side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    commands = ["hooks", "doctor", "callbacks", "hooks on_load_checkpoint"]
    code = "import sys; from leyden.cli import main\nfor line in sys.argv[1:]: print('ended', main(line.split()))"
    with subprocess.Popen([sys.executable, "-c", code, *commands], stdout=process_side, env=environment) as process:
        os.close(process_side)
        printed = b""
        with contextlib.suppress(OSError):  # what Linux says where the other side is closed
            while some := os.read(terminal, 65536):
                printed += some
        os.close(terminal)
    assert process.returncode == 0
    *texts, rest = printed.decode().split("ended 0\r\n")
    assert (len(texts), rest) == (len(commands), "")
    for command, text in zip(commands, texts, strict=True):
        lines = text.splitlines()
        assert len(lines) > 5, command
        assert [line for line in lines if len(line) > columns and " " in line.strip()] == [], command
