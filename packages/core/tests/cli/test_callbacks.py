"""`leyden callbacks`: what is installed, what a trainer gets here in which order, and what not and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leyden.callbacks import families
from leyden.cli import main

ACME = """
from leyden.callback import Callback, Checkpoint

print("acme talks while it is imported")

class Watch(Callback): ...

class Bar(Callback):
    role = "progress_bar"

class Saver(Checkpoint): ...

class NotHere(Callback):
    def applies(self, trainer):
        return False

def make():
    return [Saver(), Bar(), NotHere()]
"""


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["callbacks", "--json"]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


@pytest.fixture(name="acme")
def _acme(site: Any) -> Any:
    site.add("acme", ACME, "2.1", factory="acme = acme:make", callbacks="Watch = acme:Watch\nBar = acme:Bar")
    return site


def test_all_of_it_as_json(acme: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    acme.add("broken", "def make(): raise RuntimeError('no\\n driver')", "0.3", factory="watch = broken:make")
    (tmp_path / "pyproject.toml").write_text('[tool.leyden.callbacks.Watch]\nwhen = ["fit"]\n')
    data = shown(capsys)
    assert data.pop("installed") == [
        *({"distribution": name, "version": None, "callbacks": sorted(members), "factories": []}
          for name, members in families().items()),
        {"distribution": "acme", "version": "2.1", "callbacks": ["Bar", "Watch"],
         "factories": [{"name": "acme", "value": "acme:make"}]},
        {"distribution": "broken", "version": "0.3", "callbacks": [],
         "factories": [{"name": "watch", "value": "broken:make"}]},
    ]  # fmt: skip
    assert data == {
        "configuration": "pyproject.toml",
        "off_because": None,
        "attached": [
            {
                "callback": "Watch",
                "source": "configured",
                "distribution": "acme 2.1",
                "where": "pyproject.toml:1",
                "when": ["fit"],
                "reason": "configured in pyproject.toml:1; in fit only",
            },
            {
                "callback": "Bar",
                "source": "discovered",
                "distribution": "acme 2.1",
                "where": None,
                "when": None,
                "reason": "attached by acme 2.1",
            },
            {
                "callback": "Saver",
                "source": "discovered",
                "distribution": "acme 2.1",
                "where": None,
                "when": None,
                "reason": "attached by acme 2.1; position 'checkpoint'",
            },
        ],
        "left_out": [
            {
                "callback": "NotHere",
                "distribution": "acme 2.1",
                "reason": "it has no use here (its applies(trainer) is false)",
            }
        ],
        "broken": [
            {
                "distribution": "broken",
                "version": "0.3",
                "name": "watch",
                "value": "broken:make",
                "cause": "RuntimeError: no driver",
            }
        ],
        "warnings": [],
        "notes": [],
    }


def test_it_is_printed_as_tables(acme: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    acme.add("broken", "def make(): raise RuntimeError('\\x1b[2J')", "0.3", factory="watch = broken:make")
    capsys.readouterr()
    assert main(["callbacks"]) == 0
    out, err = capsys.readouterr()
    assert err == "acme talks while it is imported\n"
    lines = [" ".join(line.replace("│", " ").split()) for line in out.splitlines() if not line.startswith(("┌", "└"))]
    lines = [line for line in lines if line and set(line) != set("├─┼┤")]
    names = ", ".join(sorted(families()["leyden-callbacks-optim"]))
    assert lines[:4] == [
        "Installed",
        "distribution version callbacks factory",
        "acme 2.1 Bar, Watch acme",
        "broken 0.3 watch",
    ]
    assert f"Not installed: leyden-callbacks-optim ({names}). pip install leyden-callbacks-optim" in lines
    assert lines[lines.index("Attached to a Trainer() here, in the order of their calls") :] == [
        "Attached to a Trainer() here, in the order of their calls",
        "callback from reason",
        "1 Bar acme 2.1",
        "2 Saver acme 2.1 position 'checkpoint'",
        "Not attached",
        "callback from reason",
        "NotHere acme 2.1 it has no use here (its applies(trainer) is false)",
        "Broken",
        "distribution entry point cause",
        "broken 0.3 watch = broken:make RuntimeError: �[2J",
    ]


def test_nothing_is_written_and_the_log_is_heard_again_afterwards(
    acme: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    before = sorted(tmp_path.rglob("*"))
    main(["callbacks"])
    after = [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts]
    assert after == before
    logging.getLogger("leyden").warning("heard")
    assert caplog.messages == ["heard"]


def test_switches_are_reasons(acme: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", "off")
    data = shown(capsys)
    assert (data["off_because"], data["attached"], data["left_out"]) == ("LEYDEN_CALLBACKS=off", [], [])
    main(["callbacks"])
    assert capsys.readouterr().out.endswith("\nNothing is attached to a Trainer() here: LEYDEN_CALLBACKS=off.\n")
    monkeypatch.setenv("LEYDEN_CALLBACKS", "without:bar,savre")
    data = shown(capsys)
    assert [one["callback"] for one in data["attached"]] == ["Saver"]
    assert [one["reason"] for one in data["left_out"]] == [
        "named by LEYDEN_CALLBACKS=without:bar,savre",
        "it has no use here (its applies(trainer) is false)",
    ]


def test_warnings_are_shown(acme: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", "only:acmee")
    (warning,) = shown(capsys)["warnings"]
    assert warning == "LEYDEN_CALLBACKS=only:acmee: nothing installed here is called 'acmee'. Did you mean 'acme'?"
    main(["callbacks"])
    assert capsys.readouterr().out.splitlines()[-1] == f"warning: {warning}"


def test_what_cannot_work_is_said_once_and_older_hooks_are_a_note(
    site: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "from leyden import Callback\n"
        "class Odd(Callback):\n    def on_fit_start(self, a): ...\n"
        "class Older(Callback):\n    def on_epoch_end(self, trainer, pl_module): ...\n"
        "def make(): return [Odd(), Older()]"
    )
    site.add("acme", code, factory="acme = acme:make")
    data = shown(capsys)
    assert [one["callback"] for one in data["attached"]] == ["Older"]
    assert data["left_out"] == [
        {
            "callback": "Odd",
            "distribution": "acme 1.0",
            "reason": "Odd.on_fit_start takes (a), but gets (trainer, pl_module). Give it these arguments, or fewer of "
            "them under these names.",
        }
    ]
    assert data["warnings"] == []
    assert [note.partition(";")[0] for note in data["notes"]] == ["Older.on_epoch_end is a hook of 1.7 and before"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[callbacks.Wacth]", "leyden.toml:1: [callbacks.Wacth]: nothing installed here has a callback 'Wacth'. Did "),
        ("[discovery]\nstrict = 3", "leyden.toml:2: strict = 3: expected true or false."),
        ("[callbacks", "leyden.toml:1: this is not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_configuration_is_an_error_in_one_line(
    acme: Any, text: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("leyden.toml").write_text(text)
    monkeypatch.setenv("LEYDEN_CONFIG", "leyden.toml")
    capsys.readouterr()
    assert main(["callbacks"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"leyden: error: {says}")


def test_the_families_of_this_repository_in_a_process_of_its_own() -> None:
    """Whatever is installed here: what is attached is what a Trainer in such a process has."""
    environment = {key: value for key, value in os.environ.items() if key != "LEYDEN_CALLBACKS"}
    command = "import sys; from leyden.cli import main; sys.exit(main(['callbacks', '--json']))"
    script = "import leyden; print([type(one).__name__ for one in leyden.Trainer().callbacks])"
    printed = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for code in (command, script)
    ]
    assert str([one["callback"] for one in json.loads(printed[0])["attached"]]) == printed[1].strip()
