"""What a target names is imported, from the working folder too; where it cannot be, one line has the cause."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from leyden import Callback
from leyden.cli.importing import imported
from leyden.errors import MisconfigurationException

MINE = "import leyden\nclass Mine(leyden.Callback):\n    class Inner(leyden.Callback): ...\n"


def the_error(target: str) -> str:
    with pytest.raises(MisconfigurationException) as raised:
        imported(target, (Callback,))
    return str(raised.value)


def test_modules_and_files_of_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "beside.py").write_text("value = 1")
    (tmp_path / "package" / "part_of_it.py").write_text(f"{MINE}from package.beside import value\n")
    (tmp_path / "package" / "script.py").write_text(f"{MINE}import beside\n")
    path = list(sys.path)
    found = [
        imported(target, (Callback,))
        for target in ("package.part_of_it:Mine", "package.part_of_it:Mine.Inner", "package/script.py:Mine")
    ]
    assert [getattr(one, "__qualname__", "") for one in found] == ["Mine", "Mine.Inner", "Mine"]
    assert sys.path == path


def test_a_file_of_a_package_is_imported_as_its_module(tmp_path: Path) -> None:
    inner = tmp_path / "deeper" / "own_package" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("")
    (inner / "__init__.py").write_text(MINE)
    (inner / "mine.py").write_text(f"{MINE}from . import Mine as Other\n")
    (inner / "broken.py").write_text("from . import absent")
    for file, module in (("mine.py", "own_package.inner.mine"), ("__init__.py", "own_package.inner")):
        found = imported(f"deeper/own_package/inner/{file}:Mine", (Callback,))
        assert getattr(found, "__module__", None) == module
    broken = "deeper/own_package/inner/broken.py"
    assert the_error(f"{broken}:Mine").startswith(
        f"importing {broken} as own_package.inner.broken failed with ImportError: cannot import name 'absent'"
    )


def test_a_file_does_not_stand_in_for_an_installed_module(tmp_path: Path) -> None:
    import random

    (tmp_path / "random.py").write_text(MINE + "import dataclasses\n@dataclasses.dataclass\nclass Point:\n    x: int\n")
    imported("random.py:Mine", (Callback,))
    assert sys.modules["random"] is random


def test_what_a_module_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "talks.py").write_text(MINE + "print('hello')")
    imported("talks.py:Mine", (Callback,))
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize("target", ["package.module.Mine", "mine.py", "mine", "package.module:", ":Mine", ""])
def test_a_target_of_another_form(target: str) -> None:
    guess = ", here perhaps package.module:Mine" if target == "package.module.Mine" else ""
    assert the_error(target) == f"{target!r}: expected package.module:Class or path/to/file.py:Class{guess}."


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert the_error("absent_one:Mine") == (
        f"there is no module 'absent_one', neither installed nor below {tmp_path}; a file is given by its path: "
        "path/to/file.py:Class."
    )
    assert "there is no module 'leyden.absent'" in the_error("leyden.absent:Mine")
    assert the_error("absent.py:Mine") == f"there is no file 'absent.py' in {tmp_path}."
    assert the_error("mine.py:Mien") == (
        f"{tmp_path / 'mine.py'} has no 'Mien'. Did you mean 'Mine'? What has hooks there: Mine."
    )
    assert "has no 'Mine.Absent'." in the_error("mine.py:Mine.Absent")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name' ({file}, line 1)"),
        ("\nraise RuntimeError('no\\ndriver')", "RuntimeError: no\ndriver ({file}, line 2)"),
        ("import sys\nsys.exit('usage')", "SystemExit: usage ({file}, line 2)"),
        ("def broken(:", "SyntaxError: invalid syntax (broken_one.py, line 1)"),
        ("assert False", "AssertionError ({file}, line 1)"),
    ],
)
@pytest.mark.parametrize("target", ["broken_one:Mine", "broken_one.py:Mine"])
def test_a_module_that_fails_while_it_is_imported(target: str, code: str, cause: str, tmp_path: Path) -> None:
    (tmp_path / "broken_one.py").write_text(code)
    what = target.partition(":")[0]
    assert the_error(target) == f"importing {what} failed with {cause.format(file=tmp_path / 'broken_one.py')}."
    assert not [name for name in sys.modules if "broken_one" in name]
