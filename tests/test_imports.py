"""The one direction of imports in the core, and what families and `import leyden` may import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGES = Path(__file__).parents[1] / "packages"
CORE = PACKAGES / "core" / "src" / "leyden"
FAMILIES = sorted(path for path in PACKAGES.glob("callbacks-*/src/*") if path.is_dir())

LAYERS = [
    {"arguments", "callback_paths", "errors", "lazy_names", "lightning_paths", "older_arguments", "rank_zero", "seed"}
    | {"types"},
    {"hooks.contract", "state.integrity", "state.lightning_types", "state.pickles", "state.plain", "state.remote"}
    | {"state.pickled_keys", "state.storage", "state.temporaries", "state.writing"}
    | {"runtime.shards", "state.folders", "state.placing", "state.shard_files", "state.shares"},
    {"callback", "datamodule", "flops", "gradients", "hparams", "hparams_encoding", "module", "module_attachment"}
    | {"module_export", "module_hooks", "module_loading", "module_optimization", "overrides", "tables"},
    {
        "callbacks",
        "configuration",
        "data",
        "discovery",
        "hooks",
        "loggers",
        "logging",
        "optimizers",
        "profilers",
        "run_state",
        "runtime",
    }
    | {"settings", "state", "strategies"},
    {"loops"},
    {"ending", "forked_runs", "inputs", "lifecycle", "trainer", "trainer_callbacks", "trainer_ending"}
    | {"trainer_properties", "tuner", "verification"},
    {"cli", "testing"},
]
"""Lowest first. A module imports from its own layer and those before it; `leyden` itself may import from every one.

A name stands for a module and what is below it, unless that has a layer of its own.
"""
TITLES = (
    "what all the others use",
    "hook contract, files",
    "what users subclass",
    "the parts of a run",
    "the loops",
    "the trainer",
    "around it",
)
"""What a layer is called in the documentation's picture, ``docs/pictures_house.py``."""
LAYER_OF = {f"leyden.{name}": number for number, layer in enumerate(LAYERS) for name in layer} | {"leyden": len(LAYERS)}

UPWARD = {
    "leyden.module_hooks imports leyden.data.transfer",  # the default of transfer_batch_to_device
    "leyden.module_export imports leyden.data.transfer",  # example inputs go where the module is
    "leyden.cli.doctor.versions imports leyden",  # the doctor says which version there is
    "leyden.cli.new.names imports leyden",  # a new family depends on this version
    "leyden.state.checkpoint imports leyden",  # a checkpoint says which version wrote it
}
"""What is imported upward, within a function."""


class Import(NamedTuple):
    """One module that another imports when it runs, and the name taken from it where one is."""

    module: str
    name: str | None
    at_top: bool


def imports(path: Path) -> Iterator[Import]:
    """Yield what a file imports at run time, whether as it is imported itself or inside a function."""

    def walk(node: ast.AST, at_top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                    for other in child.orelse:
                        yield from walk(other, at_top)
                case ast.Import(names=names):
                    yield from (Import(alias.name, None, at_top) for alias in names)
                case ast.ImportFrom(module=str(module), level=0, names=names):
                    yield from (Import(module, alias.name, at_top) for alias in names)
                case ast.ImportFrom():
                    raise AssertionError(f"{path}:{child.lineno}: an import relative to the file; write it out")
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                    yield from walk(child, False)
                case _:
                    yield from walk(child, at_top)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), True)


def module_name(path: Path) -> str:
    """Return the dotted name of a source file, `leyden.hooks` for ``leyden/hooks/__init__.py``."""
    parts = path.relative_to(next(parent for parent in path.parents if parent.name == "src")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def core_modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(CORE.rglob("*.py"))}


def target(found: Import, modules: dict[str, Path]) -> str:
    """Return the module that an import reaches: ``from leyden.hooks import plan`` reaches `leyden.hooks.plan`."""
    longer = f"{found.module}.{found.name}"
    return longer if longer in modules else found.module


def layer(module: str) -> int:
    """Return the number of the layer a module is in: that of the longest name in `LAYERS` that covers it."""
    name = module
    while name not in LAYER_OF or (name == "leyden" and module != "leyden"):
        assert name != "leyden", f"{module} has no layer: name it in LAYERS"
        name = name.rpartition(".")[0]
    return LAYER_OF[name]


def test_every_module_has_a_layer_and_every_layer_its_modules() -> None:
    modules = core_modules()
    assert [module for module in modules if layer(module) < 0] == []
    assert [name for name in LAYER_OF if name not in modules] == []


def test_the_core_imports_in_one_direction() -> None:
    modules = core_modules()
    upward = {
        (f"{module} imports {reached}", found.at_top)
        for module, path in modules.items()
        for found in imports(path)
        if found.module.split(".")[0] == "leyden" and layer(reached := target(found, modules)) > layer(module)
    }
    assert upward == {(sentence, False) for sentence in UPWARD}


def test_no_module_of_the_core_imports_itself_in_a_circle() -> None:
    modules = core_modules()
    graph = {
        module: {
            target(found, modules) for found in imports(path) if found.at_top and target(found, modules) in modules
        }
        - {module}
        for module, path in modules.items()
    }
    circle = ""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " imports ".join(reversed(error.args[1]))
    assert circle == ""


def test_the_core_imports_torch_and_the_standard_library_alone() -> None:
    allowed = sys.stdlib_module_names | {"leyden", "torch"}
    foreign = [
        f"{module} imports {found.module}"
        for module, path in core_modules().items()
        for found in imports(path)
        if found.at_top and found.module.split(".")[0] not in allowed
    ]
    assert foreign == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda path: path.name)
def test_a_family_imports_public_names_of_the_core_and_no_other_family(family: Path) -> None:
    modules = core_modules()
    wrong = []
    for path in sorted(family.rglob("*.py")):
        for found in imports(path):
            top, *rest = found.module.split(".")
            private = any(part.startswith("_") for part in [*rest, found.name or ""])
            if (top == "leyden" and (private or target(found, modules) not in modules)) or (
                top.startswith("leyden_") and top != family.name
            ):
                wrong.append(f"{module_name(path)} imports {found.module}: {found.name}")
    assert wrong == []


def test_import_leyden_is_light() -> None:
    code = "import torch, sys; before = set(sys.modules); import leyden; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    new = set(done.stdout.split())
    assert "leyden" in new
    assert {name.split(".")[0] for name in new} <= sys.stdlib_module_names | {"leyden"}
    assert not new & {"importlib.metadata", "csv", "cProfile", "json", "asyncio", "unittest"}
