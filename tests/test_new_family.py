"""A family that ``leyden new`` wrote, as its author has it: built, installed, discovered, attached, tested, typed."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import pytest
from tests.clean_environments import Environment, run

from leyden.cli.new import files_of
from leyden.cli.new.names import choose_names

TRAIN = """
import json, os, sys
import torch, leyden
from leyden.testing import BoringModule

readme = open(sys.argv[1]).read()
exec(readme.split("```python")[1].split("```")[0])
assert [type(callback).__name__ for callback in trainer.callbacks] == ["GradNorm"]
of_readme = readme.split("```toml")[1].split("```")[0]

seen = []
os.environ["LEYDEN_CONFIG"] = "leyden.toml"
for configuration in (of_readme, *(table for table in of_readme.split("\\n\\n"))):
    with open("leyden.toml", "w") as file:
        file.write(configuration)
    trainer = leyden.Trainer(max_epochs=2, accelerator="cpu", log_every_n_steps=1)
    trainer.fit(BoringModule())
    (callback,) = trainer.callbacks
    with open(f"{trainer.log_dir}/metrics.csv") as file:
        logged = "grad_norm" in file.readline()
    source = trainer.describe_callbacks()[0].placed.source
    seen.append([type(callback).__module__, callback.every_n_steps, source, logged])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    """The core and pytest, and nothing else: the command that makes the family is that of the wheel."""
    made = Environment(tmp_path_factory.mktemp("author"), wheels, "pytest")
    made.install("leyden")
    return made


@pytest.fixture(scope="module")
def family(environment: Environment) -> Path:
    """The folder of a new family, whose wheel is installed."""
    leyden, folder = environment.folder / "bin" / "leyden", environment.folder / "work"
    run(leyden, "new", "callbacks-grad-norm", "--dir", folder, cwd=environment.folder)
    made = folder / "callbacks-grad-norm"
    run(sys.executable, "-m", "hatchling", "build", cwd=made)  # what `python -m build` calls, without an index
    (wheel,) = (made / "dist").glob("leyden_callbacks_grad_norm-0.1.0-py3-none-any.whl")
    environment.install(str(wheel))
    return made


def test_it_builds_a_source_distribution_with_all_that_was_written(family: Path) -> None:
    (archive,) = (family / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    assert packed == {"PKG-INFO", *files_of(choose_names("callbacks-grad-norm"))}


def test_the_command_lists_it_and_what_it_attaches(environment: Environment, family: Path) -> None:
    command = environment.folder / "bin" / "leyden"
    shown = json.loads(run(command, "callbacks", "--json", cwd=environment.folder))
    assert shown["installed"][-1] == {
        "distribution": "leyden-callbacks-grad-norm",
        "version": "0.1.0",
        "callbacks": ["GradNorm"],
        "factories": [{"name": "grad_norm", "value": "leyden_grad_norm.factory:make_callbacks"}],
    }
    assert [(one["callback"], one["distribution"]) for one in shown["attached"]] == [
        ("GradNorm", "leyden-callbacks-grad-norm 0.1.0")
    ]
    assert (shown["broken"], shown["warnings"], shown["notes"]) == ([], [], [])


def test_a_run_attaches_it_as_its_readme_says(environment: Environment, family: Path) -> None:
    command = (environment.python, "-c", TRAIN, family / "README.md")
    said = run(*command, cwd=environment.folder, OMP_NUM_THREADS="1").splitlines()[-1]
    assert json.loads(said) == [
        ["leyden_grad_norm.grad_norm", 10, source, True] for source in ("configured", "discovered", "configured")
    ]


def test_its_own_tests_pass(environment: Environment, family: Path) -> None:
    printed = run(environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=family, OMP_NUM_THREADS="1")
    assert " passed" in printed
    assert not {"failed", "error", "skipped"} & set(printed.split())


def test_it_passes_mypy_and_ruff(environment: Environment, family: Path) -> None:
    python = ("--python-executable", environment.python, "--cache-dir", family.parent / "mypy")
    assert "no issues found" in run(sys.executable, "-m", "mypy", *python, cwd=family)
    run(sys.executable, "-m", "ruff", "check", "--no-cache", cwd=family)
    run(sys.executable, "-m", "ruff", "format", "--check", "--no-cache", cwd=family)
