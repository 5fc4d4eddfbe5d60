"""Every block of code on a page is checked as what it is; `test_readme.py` runs those of Python."""

from __future__ import annotations

import json
import os
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from tests.pages import PAGES, ROOT, Block, blocks_of, name_of, prose_of, python_with_output
from tests.shown_commands import commands_in, problem_of

from leyden.configuration import read_configuration
from leyden.discovery import CALLBACKS_GROUP, GROUP
from leyden.discovery.configured import make, named

BLOCKS = [block for page in PAGES for block in blocks_of(page)]

# Directives of Sphinx and of the site itself: `hatch run docs` runs them and takes a warning for an error.
OF_SPHINX = {"eval-rst", "figure", "image", "include", "literalinclude", "note", "toctree", "warning"}
OF_THE_SITE = {
    name
    for extension in (ROOT / "docs" / "_ext").glob("*.py")
    for name in re.findall(r'add_directive\("([\w-]+)"', extension.read_text(encoding="utf-8"))
}
BUILT = {f"{{{name}}}" for name in OF_SPHINX | OF_THE_SITE}

# What stands as it is, and why: the page, how the block begins, the reason.
NOT_RUN = [
    ("docs/architecture.md", "Trainer(...)", "a sketch of the way of a run; test_pictures.py looks for its files"),
    ("docs/callbacks/backbone_finetuning.md", "Digits 0 to 4", "printed by examples/finetuning.py; its test runs that"),
    ("docs/checkpoints.md", "runs/1/epoch=", "the files of two processes; tests/test_parallel_saves.py makes such"),
    (
        "docs/several_processes.md",
        "MisconfigurationException: The 2",
        "what two processes say; tests/test_parallel_facts.py lets them",
    ),
    (
        "docs/data_in_several_processes.md",
        "MisconfigurationException: In",
        "what two processes say; tests/test_parallel_data.py lets them",
    ),
    ("docs/averaging.md", "┌──", "printed by examples/averaging.py; test_example_averaging.py compares the rows"),
    ("docs/callbacks/model_pruning.md", "┌──", "printed by examples/pruning.py; its test compares the rows"),
    ("docs/callbacks/quantization_aware_training.md", "┌──", "printed by examples/quantization.py; so does its test"),
    (
        "docs/publishing.md",
        "$ python -m build",
        "a release, for a person; tests/test_new_family.py builds and installs",
    ),
    ("docs/examples.md", "┌──", "printed by an example that trains for some seconds; the tests run shorter ones"),
    ("docs/command_line.md", "[callbacks.EarlyStoping]", "full of mistakes: `leyden doctor` finds them below"),
]


def blocks_with(*kinds: str) -> pytest.MarkDecorator:
    """Parametrise a test with the blocks of these kinds."""
    found = [block for block in BLOCKS if kind_of(block) in kinds and reason_not_to_run(block) is None]
    return pytest.mark.parametrize("block", found, ids=lambda block: block.place)


def kind_of(block: Block) -> str:
    """Return the language of a block, of a ``{file}`` by its name."""
    kind, _, name = block.info.partition(" ")
    return Path(name).suffix.removeprefix(".").replace("py", "{file} python") if kind == "{file}" else kind


def reason_not_to_run(block: Block) -> str | None:
    """Return why a block is not checked, if so."""
    reasons = [why for page, begin, why in NOT_RUN if page == name_of(block.page) and block.text.startswith(begin)]
    return reasons[0] if reasons else None


def test_every_block_says_what_it_is() -> None:
    checked = BUILT | {"python", "{file} python", "text", "toml", "console", "bash", "json", "yaml"}
    assert [f"{block.place} {block.info!r}" for block in BLOCKS if kind_of(block) not in checked] == []


def test_what_is_not_run_is_on_its_page() -> None:
    known = {(page, begin): False for page, begin, _ in NOT_RUN}
    for block in BLOCKS:
        for page, begin in known:
            known[page, begin] |= page == name_of(block.page) and block.text.startswith(begin)
    assert [place for place, there in known.items() if not there] == []


def test_every_text_is_what_the_python_above_it_prints() -> None:
    compared = {text for page in PAGES for _, text in python_with_output(page) if text is not None}
    texts = [block for block in BLOCKS if block.info == "text" and reason_not_to_run(block) is None]
    assert [block.place for block in texts if block.text not in compared] == []


@blocks_with("console", "bash")
def test_a_command_that_is_shown_would_work(block: Block) -> None:
    commands = list(commands_in(block.text))
    assert commands
    assert [problem for command in commands if (problem := problem_of(command))] == []


@pytest.mark.parametrize(
    "command",
    [
        "pip install leyden-callbacks-optimise",
        "pip install leyden[checkpoints]",
        "hatch run tests",
        "hatch run bench:tests",
        "hatch run demo --max-epoch 3",
        "python -m benchmark",
        "python examples/digit.py",
        "python examples/digits.py --seeds 3",
        "leyden checkpoint look x.ckpt",
        "A=1 unheard-of --of",
        ".ci/runs",
    ],
)
def test_a_command_that_would_not_work_is_found(command: str) -> None:
    assert problem_of(command) is not None


def test_a_command_within_a_sentence_would_work() -> None:
    problems = []
    for page in PAGES:
        for command in re.findall(r"`((?:pip install|hatch run|leyden|python|tensorboard) [^`]+)`", prose_of(page)):
            if command.removeprefix("pip install leyden-") in families_made_on(page):
                continue
            if problem := problem_of(f"{command} --help" if command.startswith("leyden") else command):
                problems.append(f"{name_of(page)}: `{command}`: {problem}")
    assert problems == []


def families_made_on(page: Path) -> set[str]:
    """Return the distributions that a page shows how to make, without the ``leyden-`` before their names."""
    return set(re.findall(r"leyden new (callbacks-[\w-]+)", page.read_text(encoding="utf-8")))


@blocks_with("toml")
def test_toml_is_a_configuration_or_a_project(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tomllib.loads(block.text)
    if is_project := document.keys() <= {"project", "build-system", "tool"}:
        check_project(document)
    path = tmp_path / ("pyproject.toml" if is_project else "leyden.toml")
    path.write_text(block.text, encoding="utf-8")
    monkeypatch.setenv("LEYDEN_CONFIG", os.fspath(path))
    configuration = read_configuration()
    of_this_page = names_declared_on(block.page)
    for table in configuration.callbacks:
        if table.enabled and table.name not in of_this_page:
            make(named(table, configuration).load(), table, configuration)


def names_declared_on(page: Path) -> set[str]:
    """Return the callbacks that projects shown on a page declare."""
    projects = [tomllib.loads(block.text) for block in blocks_of(page) if kind_of(block) == "toml"]
    groups = [one.get("project", {}).get("entry-points", {}) for one in projects]
    return {name for group in groups for name in group.get(CALLBACKS_GROUP, {})}


def check_project(document: dict[str, Any]) -> None:
    """Tell whether the tables of a pyproject.toml are such, and its entry points ones that Leyden reads."""
    project = document.get("project", {})
    known = {
        "name", "version", "description", "readme", "license", "license-files", "requires-python", "keywords",
        "classifiers", "dependencies", "optional-dependencies", "entry-points", "scripts", "urls", "authors", "dynamic",
    }  # fmt: skip
    assert project.keys() <= known
    assert project.get("entry-points", {}).keys() <= {GROUP, CALLBACKS_GROUP}
    for group, points in project.get("entry-points", {}).items():
        for name, value in points.items():
            found = EntryPoint(name, value, group)
            assert re.fullmatch(r"[\w.]+", found.module), value
            assert re.fullmatch(r"\w+", found.attr), value


@blocks_with("json")
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text) is not None


@blocks_with("yaml")
def test_yaml_is_yaml(block: Block) -> None:
    assert isinstance(yaml.safe_load(block.text), dict)


@blocks_with("{file} python")
def test_a_file_of_python_compiles(block: Block) -> None:
    compile(block.text, block.place, "exec")
