"""`leyden doctor`: one trouble after the other, each with its fix, and 1 as the exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.cli import doctor, main
from leyden.cli.doctor.section import Section
from leyden.cli.doctor.surroundings import VARIABLES
from leyden.runtime.places import LAUNCHED_VARIABLE

Usage = namedtuple("Usage", "total used free")  # what shutil.disk_usage returns


def examined(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    status = main(["doctor", "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    data = json.loads(out)
    assert list(data) == ["healthy", "sections"]
    assert data["healthy"] is (status == 0)
    return status, {section["title"]: section for section in data["sections"]}


def problems(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    status, sections = examined(capsys)
    found = [(one["problem"], one["fix"]) for section in sections.values() for one in section["problems"]]
    assert status == bool(found)
    return found


@pytest.fixture(name="core", autouse=True)
def _core(site: Any) -> Any:
    site.add("leyden", version=leyden.__version__)
    return site


def facts(section: Mapping[str, Any]) -> dict[str, str]:
    return {fact["name"]: fact["value"] for fact in section["facts"]}


def test_where_all_is_well(capsys: pytest.CaptureFixture[str], tmp_path: Path, core: Any) -> None:
    core.add(
        "acme",
        "from leyden import Callback\ndef make(): return [Callback()]",
        "2.1",
        "leyden>=0.1",
        factory="a = acme:make",
    )
    status, sections = examined(capsys)
    assert status == 0
    assert list(sections) == ["Versions", "Devices", "Callbacks", "Environment", "Folder"]
    versions = facts(sections["Versions"])
    assert list(versions) == ["python", "torch", "leyden", "acme"]
    assert (versions["leyden"], versions["acme"]) == (leyden.__version__, "2.1")
    assert next(iter(facts(sections["Devices"]))) == "cpu"
    assert facts(sections["Callbacks"]) == {"configuration": "none", "attached": "Callback"}
    assert sections["Environment"]["facts"] == []
    assert facts(sections["Folder"])["default_root_dir"] == str(tmp_path)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [*sections, "No problems."]


def test_it_looks_at_what_is_installed_here_in_a_process_of_its_own() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "LEYDEN_CALLBACKS"}
    command = [sys.executable, "-c", "import sys; from leyden.cli import main; sys.exit(main(['doctor', '--json']))"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    data = json.loads(done.stdout)
    assert (done.returncode, done.stderr, data["healthy"]) == (0, "", True), done.stdout


def test_a_requirement_that_is_missing_or_of_another_version(core: Any, capsys: pytest.CaptureFixture[str]) -> None:
    core.add("tool", version="3.1")
    requires = "tool>=4,<5\nabsent>=1\nleyden>=0.5\nonly-extra>=1; extra == 'x'\nother; python_version < '3'"
    core.add("acme", "def make(): return []", "2.1", requires, factory="a = acme:make")
    assert problems(capsys) == [
        ("acme 2.1 needs tool>=4,<5, and tool 3.1 is installed.", "pip install --upgrade acme 'tool>=4,<5'"),
        ("acme 2.1 needs absent>=1, which is not installed.", "pip install 'absent>=1'"),
        (
            f"acme 2.1 needs leyden>=0.5, and leyden {leyden.__version__} is installed.",
            "pip install --upgrade acme 'leyden>=0.5'",
        ),
    ]


def test_a_core_that_is_not_the_installed_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leyden, "__version__", "9.9")
    ((problem, fix),) = problems(capsys)
    assert problem == f"leyden 9.9 is imported from {leyden.__path__[0]}, and 0.1.0 is installed."
    assert fix == "Reinstall it where it is imported from, or take that folder off sys.path."


def test_a_family_that_cannot_be_imported(
    core: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older family lacks a callback that the core knows of."""
    core.add("leyden-callbacks-optim")
    monkeypatch.setitem(leyden.callbacks._FAMILY, "Newest", "optim")
    assert problems(capsys) == [
        (
            "Newest of leyden-callbacks-optim cannot be imported: ImportError: The installed leyden-callbacks-optim "
            "has no Newest. To get one that has: pip install --upgrade leyden-callbacks-optim",
            "pip install --upgrade leyden leyden-callbacks-optim",
        )
    ]


def test_broken_factories(core: Any, capsys: pytest.CaptureFixture[str]) -> None:
    core.add("acme", "import sys\ndef make(): sys.exit(3)", "2.1", factory="watch = acme:make")
    core.add("other", "", "1.0", factory="more = other:make")
    found = problems(capsys)
    assert [problem for problem, _ in found] == [
        "The callbacks of acme 2.1 are left out: its entry point `watch = acme:make` in the group "
        "leyden.callbacks_factory failed with SystemExit: 3",
        "The callbacks of other 1.0 are left out: its entry point `more = other:make` in the group "
        "leyden.callbacks_factory failed with AttributeError: module 'other' has no attribute 'make'",
    ]
    assert found[0][1] == (
        "Upgrade or uninstall acme, tell its authors, or leave it out: LEYDEN_CALLBACKS=without:watch, or "
        'deny = ["watch"] in [discovery].'
    )


def test_what_authors_should_know_is_a_note(core: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "from leyden import Callback\n"
        "class Older(Callback):\n    def on_epoch_end(self, trainer, pl_module): ...\n"
        "def make(): return [Older()]"
    )
    core.add("acme", code, factory="acme = acme:make")
    status, sections = examined(capsys)
    assert status == 0
    assert [note.partition(";")[0] for note in sections["Callbacks"]["notes"]] == [
        "Older.on_epoch_end is a hook of 1.7 and before"
    ]


def test_a_distribution_without_metadata_is_named_and_the_others_are_examined(
    core: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    core.add("acme", "def make(): return []", "2.1", "absent>=1", factory="a = acme:make")
    core.add("bare", "def make(): return []", factory="b = bare:make")
    (core.folder / "bare-1.0.dist-info" / "METADATA").unlink()
    found = [problem for problem, _ in problems(capsys)]
    assert "acme 2.1 needs absent>=1, which is not installed." in found
    assert [problem for problem in found if "could not be examined" in problem] == []


def test_every_mistake_of_the_configuration_with_file_and_line(
    core: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from leyden import Callback\nclass Watch(Callback):\n    def __init__(self, every_n_steps: int = 1): ...\n"
    core.add("acme", code, callbacks="Watch = acme:Watch")
    Path("leyden.toml").write_text(
        "[callbacks.Wacth]\n\n[callbacks.Watch]\nevery_n_steps = 'three'\n\n[callbacks.Timer]\nduration = 'soon'\n"
    )
    monkeypatch.setenv("LEYDEN_CONFIG", "leyden.toml")
    found = [problem for problem, _ in problems(capsys)]
    assert found[:2] == [
        "leyden.toml:1: [callbacks.Wacth]: nothing installed here has a callback 'Wacth'. Did you mean 'Watch'?",
        "leyden.toml:4: Watch(every_n_steps='three'): expected an int.",
    ]
    assert len(found) == 3
    assert found[2].startswith(("leyden.toml:6: [callbacks.Timer]", "leyden.toml:7: "))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[discovery]\nstrit = true", "leyden.toml:2: [discovery] has no key 'strit'; expected"),
        ("a = ", "leyden.toml:1: this is not TOML"),
        ("[discovery.settings.acme]", "leyden.toml:1: [discovery.settings.acme]: no factory installed here is called"),
    ],
)
def test_a_configuration_that_cannot_be_read(
    text: str, problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("leyden.toml").write_text(text)
    monkeypatch.setenv("LEYDEN_CONFIG", "leyden.toml")
    ((found, fix),) = problems(capsys)
    assert found.startswith(problem)
    assert fix == "Mend it: a Trainer(...) here fails with it."


def test_a_configuration_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CONFIG", "absent.toml")
    ((found, _),) = problems(capsys)
    assert found.startswith("LEYDEN_CONFIG='absent.toml': No such file or directory.")


def test_a_configuration_that_nothing_reads(capsys: pytest.CaptureFixture[str]) -> None:
    Path("leyden.toml").write_text("[discovery]")
    Path("pyproject.toml").write_text("[tool.leiden.discovery]\n[tool.ruff]\n[tool]\nlayden = 3")
    assert [problem for problem, _ in problems(capsys)] == [
        "leyden.toml is in this folder, and nothing reads it.",
        "pyproject.toml has a table [tool.leiden], which nothing of Leyden reads. Did you mean [tool.leyden]?",
        "pyproject.toml has a table [tool.layden], which nothing of Leyden reads. Did you mean [tool.leyden]?",
    ]
    Path("pyproject.toml").write_text("[tool.leyden.discovery]\nstrict = false")
    assert problems(capsys) == []


def test_strict_makes_one_problem_of_what_is_broken(core: Any, capsys: pytest.CaptureFixture[str]) -> None:
    core.add("acme", "", "2.1", factory="watch = acme:make")
    Path("pyproject.toml").write_text("[tool.leyden.discovery]\nstrict = true")
    ((found, _),) = problems(capsys)
    assert "acme 2.1" in found
    assert "strict = true" in found


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("LEYDEN_CALLBAKCS", "off", "LEYDEN_CALLBAKCS is set, and nothing reads it. Did you mean 'LEYDEN_CALLBACKS'?"),
        ("leyden_seed", "1", "leyden_seed is set, and nothing reads it. Did you mean 'LEYDEN_SEED'?"),
        ("LEYDEN_COFFEE", "1", "LEYDEN_COFFEE is set, and nothing reads it."),
        ("LEYDEN_SEED", "-1", "A seed must be a whole number from 0 to 4294967295; got '-1'."),
        ("LEYDEN_SEED_WORKERS", "yes", "LEYDEN_SEED_WORKERS='yes': expected 0 or 1."),
        ("LEYDEN_CALLBACKS", "onyl:a", "LEYDEN_CALLBACKS='onyl:a': expected off, on, only:"),
        ("LEYDEN_CALLBACKS", "only:acmee", "LEYDEN_CALLBACKS=only:acmee: nothing installed here is called 'acmee'."),
    ],
)
def test_variables_that_nothing_reads_or_that_are_malformed(
    name: str, value: str, problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    ((found, fix),) = problems(capsys)
    assert found.startswith(problem)
    assert fix


def test_sound_variables_are_no_trouble(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEYDEN_CALLBACKS": "off", "LEYDEN_SEED": "7", "LEYDEN_SEED_WORKERS": "1"}.items():
        monkeypatch.setenv(name, value)
    status, sections = examined(capsys)
    assert status == 0
    assert facts(sections["Callbacks"])["attached"] == "nothing: LEYDEN_CALLBACKS=off"
    assert facts(sections["Environment"])["LEYDEN_SEED"] == "7"


def test_the_variables_are_all_that_the_sources_name() -> None:
    packages = Path(__file__).parents[4]
    sources = [path for path in packages.glob("*/src/**/*.py") if path.parent.parent.name != "cli"]
    named = {name for path in sources for name in re.findall(r"LEYDEN_[A-Z_]+", path.read_text(encoding="utf-8"))}
    assert named == {*VARIABLES, LAUNCHED_VARIABLE}  # which users do not set


def test_a_folder_that_cannot_be_written_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("there is no /proc, where nobody can write")
    monkeypatch.chdir("/proc/self")
    ((found, fix),) = problems(capsys)
    assert re.match(r"/proc/\d+ cannot be written to \(.+\), and runs write logs and checkpoints there\.", found)
    assert fix == "Start in another folder, or give Trainer(default_root_dir=...)."


def test_a_disk_that_is_nearly_full(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 10**12, 5_000_000))
    ((found, _),) = problems(capsys)
    assert "has 5.0 MB free" in found


def test_a_part_that_fails_does_not_end_the_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Section:
        raise ZeroDivisionError("no\n luck")

    monkeypatch.setattr(doctor, "EXAMINATIONS", {**doctor.EXAMINATIONS, "Devices": fail})
    assert problems(capsys) == [
        (
            "this part could not be examined: ZeroDivisionError: no luck",
            "Report it with the other parts of this report.",
        )
    ]


def test_problems_are_numbered_with_their_fixes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_SEED", "\x1b[2J")
    monkeypatch.setenv("LEYDEN_WIDTH", "1")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out[out.index("Problems") :].splitlines() == [
        "Problems",
        "  1. A seed must be a whole number from 0 to 4294967295; got '\\x1b[2J'. Change seed_everything(seed) or the "
        "environment variable LEYDEN_SEED.",
        "     fix: Mend LEYDEN_SEED, or unset it.",
        "  2. LEYDEN_WIDTH is set, and nothing reads it.",
        "     fix: Unset it; Leyden reads LEYDEN_CALLBACKS, LEYDEN_CONFIG, LEYDEN_SEED, LEYDEN_SEED_WORKERS.",
    ]
