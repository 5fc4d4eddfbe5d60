"""The file: where it is looked for, what it may hold, and where its mistakes are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leyden.configuration import Configuration, read_configuration
from leyden.errors import MisconfigurationException


def write(text: str, path: str = "leyden.toml", *, named: bool = True) -> Path:
    file = Path(path)
    file.write_text(text, encoding="utf-8")
    if named:
        os.environ["LEYDEN_CONFIG"] = path
    return file


@pytest.fixture(autouse=True)
def _named_by_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CONFIG", "")


def test_without_a_file_everything_is_at_its_default() -> None:
    assert read_configuration() == Configuration()


def test_a_file_that_is_named_is_read(tmp_path: Path) -> None:
    write(
        """
[discovery]
allow = ["monitoring", "checkpoint"]
deny = ["DeviceStatsMonitor"]
strict = true
timeout_s = 2

[discovery.settings.checkpoint]
save_last = true

[callbacks.Timer]
duration = "00:12:00:00"
when = ["fit"]

[[callbacks.EarlyStopping]]
monitor = "a"
rank_zero_only = true
[[callbacks.EarlyStopping]]
monitor = "b"
enabled = false
""",
    )
    read = read_configuration()
    assert read.path == Path("leyden.toml")
    assert (read.allow, read.deny) == (("monitoring", "checkpoint"), ("DeviceStatsMonitor",))
    assert (read.strict, read.timeout_s, read.settings) == (True, 2.0, {"checkpoint": {"save_last": True}})
    assert [
        (one.name, dict(one.arguments), one.enabled, one.rank_zero_only, one.when, one.where) for one in read.callbacks
    ] == [
        ("Timer", {"duration": "00:12:00:00"}, True, False, ("fit",), "leyden.toml:11"),
        ("EarlyStopping", {"monitor": "a"}, True, True, None, "leyden.toml:15"),
        ("EarlyStopping", {"monitor": "b"}, False, False, None, "leyden.toml:18"),
    ]
    assert read.where("callbacks", "EarlyStopping", 1, "monitor") == "leyden.toml:19"
    assert read.where("callbacks", "EarlyStopping", 1, "not", "there") == "leyden.toml:18"


def test_the_pyproject_of_the_working_folder_is_read() -> None:
    write("[project]\nname = 'x'\n\n[tool.leyden.discovery]\nstrict = true\n", "pyproject.toml", named=False)
    read = read_configuration()
    assert (read.strict, read.where("discovery", "strict")) == (True, "pyproject.toml:5")
    write("[callbacks.Timer]\n")
    assert [one.name for one in read_configuration().callbacks] == ["Timer"]  # the one that is named goes first
    assert not read_configuration().strict


@pytest.mark.parametrize(
    "text",
    [
        "[tool.leyden.discovery]\nstrict = true\n",
        "[ tool . leyden . discovery ]\nstrict = true\n",
        '[tool."leyden".discovery]\nstrict = true\n',
        "[tool]\n'leyden' .discovery.strict = true\n",
        "[tool]\nleyden\t= {discovery = {strict = true}}\n",
        "tool = {leyden = {discovery.strict = true}}\n",
        "tool.leyden.discovery.strict=true\n",
    ],
)
def test_however_the_table_is_spelt_it_is_found(text: str) -> None:
    write(text, "pyproject.toml", named=False)
    assert read_configuration().strict


def test_a_pyproject_that_only_requires_leyden_is_not_parsed() -> None:
    write("[project]\ndependencies = ['leyden>=0.1', 'leyden_x']\nnot toml", "pyproject.toml", named=False)
    assert read_configuration().path is None


def test_a_pyproject_may_be_named_too(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / "pyproject.toml"
    write("[tool.leyden.callbacks.Timer]\n", str(path))
    assert [one.where for one in read_configuration().callbacks] == [f"{path}:1"]


@pytest.mark.parametrize("text", ["", "[project]\nname = 'leyden'\n", "[tool.leyden]\n", "[tool.other]\nleyden = 1\n"])
def test_a_pyproject_of_somebody_else_is_none_of_ours(text: str) -> None:
    write(text, "pyproject.toml", named=False)
    assert read_configuration().callbacks == ()
    assert read_configuration().path is None


def test_a_file_that_changes_is_read_again() -> None:
    write("[callbacks.Timer]\n")
    first = read_configuration()
    assert read_configuration() is first
    write("[callbacks.Timer]\n[callbacks.ModelSummary]\n")
    assert [one.name for one in read_configuration().callbacks] == ["Timer", "ModelSummary"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[discovery]\nstrict = yes\n", 2, "this is not TOML: Invalid value."),
        ("a = 1\na = 2", 2, "this is not TOML: Cannot overwrite a value."),
        ("\n\n[discovery", 3, "this is not TOML: Expected ']' at the end of a table declaration."),
        ("x = '''\n\n", 1, "this is not TOML: "),
        ("[callback.Timer]", 1, "there is no table [callback]; expected discovery or callbacks. Did you mean 'callbac"),
        ("\nstrict = true", 2, "there is no table [strict]; expected discovery or callbacks."),
        ("discovery = 3", 1, "discovery is 3; expected a table [discovery]."),
        ("[discovery]\n\nstirct = true", 3, "[discovery] has no key 'stirct'; expected allow, deny, strict, timeout_s"),
        ("[discovery]\nstrict = 1", 2, "strict = 1: expected true or false."),
        ("[discovery]\nallow = 'a'", 2, "allow = 'a': expected a list of names of factories, distributions or callb"),
        ("[discovery]\ndeny = [1]", 2, "deny = [1]: expected a list of names"),
        ("[discovery]\ntimeout_s = 0", 2, "timeout_s = 0: expected a number of seconds above 0."),
        ("[discovery]\ntimeout_s = nan", 2, "timeout_s = nan: expected a number of seconds above 0."),
        ("[discovery]\nsettings.x = 1", 2, "settings = {'x': 1}: expected a table per factory, such as [discovery.set"),
        ("callbacks.Timer = 3", 1, "callbacks.Timer is 3; expected a table [callbacks.Timer] with its arguments."),
        ("callbacks.Timer = [\n{},\n3]", 3, "callbacks.Timer is 3; expected a table"),
        ("[callbacks.Timer]\nenabled = 'no'", 2, "enabled = 'no': expected true or false."),
        ("[callbacks.Timer]\nrank_zero_only = 1", 2, "rank_zero_only = 1: expected true or false."),
        ("[callbacks.Timer]\nwhen = 'fit'", 2, "when = 'fit': expected a list of fit, validate, test or predict."),
        ("[callbacks.Timer]\nwhen = ['fitt']", 2, "when = ['fitt']: expected a list of fit, validate, test or predict"),
        ("[callbacks.Timer]\nwhen = []", 2, "when = []: expected a list of fit, validate, test or predict."),
        ("[callbacks.Timer]\nwhen = [['fit']]", 2, "when = [['fit']]: expected a list of fit, validate, test or pred"),
    ],
)  # fmt: skip
def test_a_mistake_says_the_file_and_the_line(text: str, line: int, message: str) -> None:
    write(text)
    with pytest.raises(MisconfigurationException) as caught:
        read_configuration()
    assert str(caught.value).startswith(f"leyden.toml:{line}: {message}")


def test_what_is_not_utf8_says_the_line() -> None:
    write("").write_bytes(b"[discovery]\n# caf\xe9\n")
    with pytest.raises(MisconfigurationException, match=r"^leyden\.toml:2: this is not UTF-8"):
        read_configuration()


def test_a_table_of_a_pyproject_that_is_none_is_an_error() -> None:
    write("[tool]\nleyden = 3\n", "pyproject.toml", named=False)
    with pytest.raises(MisconfigurationException, match=r"^pyproject\.toml: tool\.leyden is 3; expected a table\.$"):
        read_configuration()


def test_a_file_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    os.environ["LEYDEN_CONFIG"] = "nowhere/leyden.toml"
    with pytest.raises(MisconfigurationException, match=r"^LEYDEN_CONFIG='nowhere/leyden\.toml': No such file or dir"):
        read_configuration()
    os.environ["LEYDEN_CONFIG"] = str(tmp_path)
    with pytest.raises(MisconfigurationException, match=r"^LEYDEN_CONFIG names the folder .*; expected a file"):
        read_configuration()
