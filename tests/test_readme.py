"""What the READMEs and the site show runs as it stands, and the README's table of hooks is the contract's."""

from __future__ import annotations

import doctest
import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from tests.pages import PAGES, ROOT, name_of, python_with_output

LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def site() -> ModuleType:
    """Import the site's extension."""
    spec = importlib.util.spec_from_file_location("leyden_site", ROOT / "docs" / "_ext" / "leyden_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [page for page in PAGES if python_with_output(page)], ids=name_of)
def test_the_python_of_a_page_runs_and_prints_what_is_shown(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "__page__"}
    for block, shown in python_with_output(page):
        script = "\n" * block.line + block.text  # each line at its place in the page, so that errors name it
        exec(compile(script, page, "exec"), names)
        printed = capsys.readouterr().out
        if shown is not None:
            same = doctest.OutputChecker().check_output(f"{shown}\n", printed, LOOSELY)
            assert same, f"{block.place} prints\n{printed}and the page shows\n{shown}"
    assert "leyden" in names or "Trainer" in names


def test_the_readme_shows_the_hooks_of_the_contract() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- hooks: .* -->\n(.*)<!-- end of hooks -->", readme, flags=re.DOTALL)
    assert table.strip() == site().table_of_order(short=True), "python docs/_ext/leyden_site.py prints it"


def test_every_package_has_the_licence_of_the_repository() -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    assert [path.read_bytes() for path in ROOT.glob("packages/*/LICENSE")] == [licence] * 5


def test_the_ci_script_runs_the_commands_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    for command in ("lint", "types", "docs", "test"):
        assert f"hatch run {command}" in script.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", script], check=True)


def test_all_tests_take_every_core_and_those_that_are_named_begin_at_once() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    script = settings["tool"]["hatch"]["envs"]["default"]["scripts"]["test"]
    assert script == "pytest {args:-n logical --maxprocesses 8 --dist worksteal}"
    assert not {"-n", "--dist"} & {word.split("=")[0] for word in settings["tool"]["pytest"]["ini_options"]["addopts"]}
