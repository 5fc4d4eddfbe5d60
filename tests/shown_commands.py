"""Whether a command that a page shows would work here: its program, script, distribution and options exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from tests.pages import ROOT

from leyden.cli import _parser

__all__ = ["commands_in", "problem_of"]

_SHELL = {"cd", "export", "git", "python", "python3"}  # what a shell has, or every machine that trains


@cache
def _projects() -> list[dict[str, Any]]:
    return [tomllib.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("packages/*/pyproject.toml")]


@cache
def _environments() -> dict[str, dict[str, Any]]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    environments: dict[str, dict[str, Any]] = document["tool"]["hatch"]["envs"]
    return environments


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


@cache
def _distributions() -> dict[str, set[str] | None]:
    """Names that `pip install` may be shown with, and their extras: ours, and what ours or the workspace declare."""
    declared: list[str] = []
    for environment in _environments().values():
        declared += [*environment.get("dependencies", []), *environment.get("extra-dependencies", [])]
    found: dict[str, set[str] | None] = {"hatch": None}
    for project in (document["project"] for document in _projects()):
        extras = project.get("optional-dependencies", {})
        declared += [*project["dependencies"], *(one for several in extras.values() for one in several)]
        found[project["name"]] = set(extras)
    return {_name(one): None for one in declared} | found


def commands_in(text: str) -> Iterator[str]:
    """Find the commands of a block: one a line, continued by a backslash, or behind ``$`` where output is shown too."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    shown = [line[2:] for line in lines if line.startswith("$ ")] or lines
    for line in shown:
        for command in re.split(r"&&|\|\||[;|]", re.sub(r"(^|\s)#.*", "", line)):
            if command.strip():
                yield command.strip()


def problem_of(command: str) -> str | None:
    """Say why a command would not work; None where nothing speaks against it."""
    words = shlex.split(command)
    while words and re.fullmatch(r"\w+=.*", words[0]):  # variables of the environment
        words.pop(0)
    if not words:
        return None
    program, *arguments = words
    if program == "pip" or words[:3] == ["python", "-m", "pip"]:
        return _of_pip(arguments[arguments.index("install") + 1 :] if "install" in arguments else [])
    if program == "hatch":
        return _of_hatch(arguments)
    if program == "leyden":
        return _of_leyden(arguments)
    if program in ("python", "python3"):
        return _of_python(arguments)
    if "/" in program:
        return None if (ROOT / program).exists() else f"there is no file {program}"
    if program in _SHELL or program in _distributions():
        return None
    scripts = entry_points(group="console_scripts", name=program)
    if not any(script.dist and _name(script.dist.name) in _distributions() for script in scripts):
        return f"no distribution that is declared in a pyproject.toml has a program {program}"
    return None


def _of_pip(arguments: list[str]) -> str | None:
    for one in arguments:
        if one.startswith((".", "packages/")):
            if not (ROOT / one.partition("[")[0]).exists():
                return f"there is no folder {one}"
        elif not one.startswith("-"):
            known = _distributions()
            extras = set((re.search(r"\[(.*)\]", one) or ("", ""))[1].replace(" ", "").split(",")) - {""}
            if _name(one) not in known:
                return f"{one} is neither a distribution of this repository nor a dependency that it declares"
            if unknown := extras - (known[_name(one)] or set()):
                return f"{_name(one)} has no extra {', '.join(sorted(unknown))}"
    return None


def _of_hatch(arguments: list[str]) -> str | None:
    if arguments[:1] != ["run"]:
        return f"hatch {' '.join(arguments)}: pages show `hatch run`"
    environment, _, script = arguments[1].rpartition(":")
    known = _environments()
    if environment and environment not in known:
        return f"there is no environment {environment}"
    scripts = known["default"]["scripts"] | known[environment or "default"].get("scripts", {})
    if script not in scripts:
        return problem_of(shlex.join([script, *arguments[2:]]))
    expanded = scripts[script] if isinstance(scripts[script], str) else scripts[script][0]
    return problem_of(f"{expanded.partition('{')[0]} {shlex.join(arguments[2:])}")


def _of_leyden(arguments: list[str]) -> str | None:
    try:
        _parser().parse_args(arguments)
    except SystemExit as error:
        return f"leyden {' '.join(arguments)} ends with {error.code}" if error.code else None
    return None


def _of_python(arguments: list[str]) -> str | None:
    if arguments[:1] == ["-m"]:
        script = ROOT / arguments[1].replace(".", "/")
        sources = [*script.glob("*.py")] if script.is_dir() else [script.with_suffix(".py")]
        arguments = arguments[2:]
    elif arguments and arguments[0].endswith(".py"):
        sources, arguments = [ROOT / arguments[0]], arguments[1:]
    else:
        return None
    if missing := [source for source in sources if not source.exists()]:
        return f"there is no {missing[0].relative_to(ROOT)}"
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    imported = re.findall(r"^\s*(?:from|import) (\w+)", text, flags=re.MULTILINE)
    beside = [path for name in imported if (path := sources[0].parent / f"{name}.py").exists()]
    text += "".join(path.read_text(encoding="utf-8") for path in beside)  # examples share parsers of arguments
    options = [one.partition("=")[0] for one in arguments if one.startswith("--")]
    unknown = [one for one in options if f'"{one}"' not in text]
    return f"{', '.join(unknown)}: no such option" if unknown else None
