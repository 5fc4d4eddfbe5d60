"""Each callback has a page with all that its user asks, and each argument is explained where the class is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from tests.pages import ROOT, blocks_of, headings_of, name_of, python_with_output

import leyden.callbacks
import leyden_monitoring
from leyden.callback import Callback

FOLDER = ROOT / "docs" / "callbacks"
PAGES = sorted(FOLDER.glob("*.md"))
SECTIONS = ["Arguments", "State", "Cost", "Pitfalls"]

# Names of 1.x that are another's class stand on that one's page.
CALLBACKS = {
    name: value
    for name in leyden.callbacks.__all__
    if issubclass(value := getattr(leyden.callbacks, name), Callback) and value.__name__ == name
}
# What is no callback, and has a page like one.
OTHERS: dict[str, type] = {"TensorBoardLogger": leyden_monitoring.TensorBoardLogger}
WITH_A_PAGE = CALLBACKS | OTHERS


def class_of(page: Path) -> type | None:
    """Return the class that a page is about: its file is called as the class is, in snake case."""
    return next((value for name, value in WITH_A_PAGE.items() if name.lower() == page.stem.replace("_", "")), None)


def test_each_callback_has_a_page_and_no_page_is_without_a_class() -> None:
    classes = [class_of(page) for page in PAGES]
    assert [name_of(page) for page, value in zip(PAGES, classes, strict=True) if value is None] == []
    assert sorted(value.__name__ for value in classes if value is not None) == sorted(WITH_A_PAGE)


def test_the_overview_leads_to_every_page() -> None:
    trees = [block.text for block in blocks_of(FOLDER.with_suffix(".md")) if block.info == "{toctree}"]
    listed = {path for tree in trees for line in tree.splitlines() for path in FOLDER.parent.glob(f"{line}.md")}
    assert sorted(listed) == PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_sections_an_example_and_the_class_itself(page: Path) -> None:
    value = class_of(page)
    assert value is not None
    assert headings_of(page)[0] == (1, value.__name__)
    found = [text for level, text in headings_of(page) if level == 2]
    assert [text for text in found if text in SECTIONS] == SECTIONS
    text = page.read_text(encoding="utf-8")
    first_section = text[: text.index("\n## ")].count("\n") + 1
    examples = python_with_output(page)
    assert any(block.line < first_section for block, _ in examples), "an example comes first"
    assert any(printed for _, printed in examples), "what an example prints is shown"
    package = value.__module__.partition(".")[0]
    arguments = text[text.index("\n## Arguments\n") : text.index("\n## State\n")]
    assert f"\n.. autoclass:: {package}.{value.__name__}\n" in arguments
    for section in SECTIONS[1:]:
        assert re.search(rf"^## {section}\n+[^#\s]", text, flags=re.MULTILINE), f"{section} says nothing"


@pytest.mark.parametrize("name", WITH_A_PAGE)
def test_the_docstring_explains_each_argument(name: str) -> None:
    value = WITH_A_PAGE[name]
    where = " ".join(
        owner.__doc__ or "" for owner in value.__mro__ if issubclass(owner, WITH_A_PAGE.get(owner.__name__, value))
    )
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    arguments = [one.name for one in inspect.signature(value).parameters.values() if one.kind not in kinds]
    assert [one for one in arguments if not re.search(rf"(^\s+|`){one}(`|: )", where, flags=re.MULTILINE)] == []
