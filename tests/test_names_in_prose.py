"""What prose names of the code is there: paths of names, and the arguments of calls that are written in a sentence."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.pages import PAGES, name_of, prose_of

import leyden
import leyden.callbacks
import leyden.loggers
import leyden.profilers
import leyden.strategies
import leyden.testing
import leyden.tuner
from leyden.discovery.installed import GROUP
from leyden.older_arguments import OLDER_ARGUMENTS

OWNERS: dict[str, Any] = {"trainer": leyden.Trainer, "self": leyden.LightningModule, "leyden": leyden}
WHERE = (leyden, leyden.callbacks, leyden.testing, leyden.loggers, leyden.strategies, leyden.tuner, leyden.profilers)
NO_NAMES = {GROUP, "leyden.toml", "leyden_loop.py"}


def code_in(page: Path) -> list[str]:
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose_of(page))


def named(path: str) -> Any:
    """Return what a path of names leads to, through modules and attributes."""
    found: Any = None
    parts = path.split(".")
    for number, part in enumerate(parts):
        if found is None or (inspect.ismodule(found) and not hasattr(found, part)):
            found = importlib.import_module(".".join(parts[: number + 1]))
        else:
            found = getattr(found, part)
    return found


def function_of(call: ast.Call) -> Any:
    """Return what a call calls, None where that is nothing of ours."""
    if isinstance(call.func, ast.Name):
        name = call.func.id
        return next((getattr(where, name) for where in WHERE if hasattr(where, name)), None)
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        return getattr(OWNERS.get(call.func.value.id), call.func.attr, None)
    return None


def problems_of(code: str) -> Iterator[str]:
    """Say what a piece of code in a sentence names that there is not."""
    if re.fullmatch(r"leyden(_\w+)?(\.\w+)+", code) and code not in NO_NAMES:
        try:
            named(code)
        except (ImportError, AttributeError) as error:
            yield str(error)
    try:
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    except SyntaxError:  # a command, a file, a piece of something
        return
    for call in calls:
        function = function_of(call)
        if function is None or not call.keywords:
            continue
        takes = inspect.signature(function).parameters
        open_ended = any(one.kind is one.VAR_KEYWORD for one in takes.values()) and function is not leyden.Trainer
        if not open_ended:
            yield from (
                f"{one.arg} is no argument" for one in call.keywords if one.arg not in {None, *takes, *OLDER_ARGUMENTS}
            )


def test_names_and_arguments_in_sentences_are_there() -> None:
    pages = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which tells of what was
    found = [(page, code, problem) for page in pages for code in code_in(page) for problem in problems_of(code)]
    assert [f"{name_of(page)}: `{code}`: {problem}" for page, code, problem in found] == []


@pytest.mark.parametrize(
    "code",
    [
        "leyden.callbacks.EarlyStoping",
        "leyden.testings",
        "Trainer(max_epoch=3)",
        "trainer.fit(module, checkpoint=path)",
        "callbacks=[EarlyStopping('loss', patients=3)]",
    ],
)
def test_what_is_not_there_is_found(code: str) -> None:
    assert list(problems_of(code))
