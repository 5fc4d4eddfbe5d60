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
    {"errors", "rank_zero", "seed", "types"},
    {"module", "datamodule", "hparams", "callback", "tables"},
    {"hooks", "logging", "loggers", "state", "data", "runtime", "profilers", "discovery"},
    {"loops"},
    {"trainer"},
    {"__init__", "callbacks", "testing"},
]
"""Lowest first. A module imports from its own layer and those before it; only what users import imports the last."""
LAYER_OF = {name: number for number, layer in enumerate(LAYERS) for name in layer}


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


def room(module: str) -> str:
    """Return the part of the core a module is in: `hooks` for `leyden.hooks.plan`."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_module_of_the_core_has_a_layer() -> None:
    assert {room(module) for module in core_modules()} == set(LAYER_OF), "name new modules in LAYERS, drop old ones"


def test_the_core_imports_in_one_direction() -> None:
    modules = core_modules()
    upward = [
        f"{module} imports {target(found, modules)}"
        for module, path in modules.items()
        for found in imports(path)
        if found.module.split(".")[0] == "leyden" and LAYER_OF[room(target(found, modules))] > LAYER_OF[room(module)]
    ]
    assert upward == []


def test_no_module_of_the_core_imports_itself_in_a_circle() -> None:
    modules = core_modules()
    graph = {
        module: {
            target(found, modules) for found in imports(path) if found.at_top and target(found, modules) in modules
        }
        - {module}
        for module, path in modules.items()
    }
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
    assert order[-1] == "leyden" or "leyden" in order


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
