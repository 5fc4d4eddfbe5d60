"""Lists the public names of an installed Lightning: ``python docs/lightning_public.py`` puts them in a file.

Run it once with a 2.x installed, as ``... lightning.pytorch``, and once with a 1.x: a name that only one generation
has is marked ``@2`` or ``@1`` in ``lightning_public.toml``, of which `docs/_ext/lightning_names.py` makes tables.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["FILE", "attributes_of", "generation_of", "parameters_of", "public_names", "read"]

FILE = Path(__file__).with_name("lightning_public.toml")
LIGHTNING = ("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning")

METHODS = {
    "Trainer": ["fit", "validate", "test", "predict", "save_checkpoint", "init_module"],
    "LightningModule": [
        *("all_gather", "clip_gradients", "configure_gradient_clipping", "freeze", "load_from_checkpoint", "log"),
        *("log_dict", "lr_scheduler_step", "manual_backward", "optimizer_step", "optimizer_zero_grad", "optimizers"),
        *("save_hyperparameters", "to_onnx", "to_torchscript", "toggle_optimizer", "transfer_batch_to_device"),
    ],
    "LightningDataModule": ["from_datasets", "load_from_checkpoint", "save_hyperparameters"],
    "tuner.Tuner": ["lr_find", "scale_batch_size"],
}
"""Methods whose arguments are listed too; those of hooks are the contract's matter."""

WITH_MODULES = ("callbacks", "core", "demos", "loggers", "profilers", "trainer", "tuner", "utilities")
"""Subpackages of whose modules the names are listed too: by their paths scripts import from them."""

PACKAGES = ("plugins.environments", "plugins.io", "plugins.precision")

INSIDE = (
    "trainer.connectors",
    "trainer.configuration_validator",
    "utilities.migration",
    "utilities.upgrade_checkpoint",
)
"""What is Lightning's own machinery."""

LOOKED_INTO = ("callbacks", "loggers", "profilers")
"""Subpackages whose classes are listed with arguments and attributes."""


def generation_of(package: ModuleType) -> str:
    """Return "1" or "2"."""
    return str(package.__version__).partition(".")[0]


def parameters_of(function: Any) -> list[str]:
    """Return the names of arguments, without ``self``, ``*args`` and ``**kwargs``."""
    signature = inspect.signature(function)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [one.name for one in signature.parameters.values() if one.kind not in variable and one.name != "self"]


def attributes_of(cls: type, packages: Iterable[str]) -> set[str]:
    """Return the public names of a class, and those that its methods, and its bases' in `packages`, give ``self``."""
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] in packages]
    outside = {name for base in cls.__mro__ if base not in bases for name in dir(base)}
    found = {name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", ()))}
    for base in bases:
        found |= set(_given_to_self(base))
    return {name for name in found if not name.startswith("_")} - outside


def _given_to_self(cls: type) -> Iterator[str]:
    try:
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError):  # made without a file
        return
    waiting: list[ast.AST] = list(ast.iter_child_nodes(definition))
    while waiting:
        match waiting.pop():
            case ast.ClassDef():  # whose self is another
                continue
            case ast.Attribute(value=ast.Name(id="self"), ctx=ast.Store(), attr=name):
                yield name
            case node:
                waiting += ast.iter_child_nodes(node)


def _modules(package: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    """Yield the public modules of Lightning by their path within the package."""
    yield "", package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        path = found.name.removeprefix(f"{package.__name__}.")
        if path.startswith(INSIDE) or any(part.startswith("_") for part in path.split(".")):
            continue
        if "." in path and not path.startswith(WITH_MODULES) and path not in PACKAGES:
            continue
        try:
            yield path, importlib.import_module(found.name)
        except Exception:  # it needs what is not installed, or says that it has gone
            continue


def _names_in(module: ModuleType) -> list[str]:
    """Return ``__all__``, else the public names that are Lightning's own."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [name for name, value in vars(module).items() if _is_own(value, module)]
        if module.__name__.endswith(".utilities.types"):
            names += _assigned_in(module)
    return sorted(name for name in names if not name.startswith("_"))


def _assigned_in(module: ModuleType) -> list[str]:
    """Return the names that a module gives to what is made elsewhere, such as types: they do not know their home."""
    statements = ast.parse(inspect.getsource(module)).body
    assigned = [one for one in statements if isinstance(one, ast.Assign | ast.AnnAssign)]
    targets = [target for one in assigned for target in (one.targets if isinstance(one, ast.Assign) else [one.target])]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _is_own(value: Any, module: ModuleType) -> bool:
    home = getattr(value, "__module__", None) or ""
    package = hasattr(module, "__path__")  # a package offers what its modules have; a module what it defines
    return home.partition(".")[0] in LIGHTNING if package else home == module.__name__


def public_names(package: ModuleType) -> dict[str, list[str]]:
    """Return names by path: modules, ``Class`` for its attributes, ``Class(...)`` and ``Class.method(...)``."""
    found: dict[str, list[str]] = {}
    for path, module in _modules(package):
        names = _names_in(module)
        if names:
            found[path] = names
        if path in LOOKED_INTO:
            for name in names:
                found |= _class_names(f"{path}.{name}", getattr(module, name), package.Callback)
    for path in METHODS:
        holder = importlib.import_module(package.__name__ + (".tuner.tuning" if path == "tuner.Tuner" else ""))
        if hasattr(holder, path.rpartition(".")[2]):
            found |= _class_names(path, getattr(holder, path.rpartition(".")[2]))
    found |= _class_names("Callback", package.Callback)
    return found


def _class_names(path: str, cls: Any, base: type = object) -> dict[str, list[str]]:
    """Return the names of a class but for those of its `base`, which has a path of its own."""
    if not inspect.isclass(cls):
        return {}
    of_base = attributes_of(base, LIGHTNING) if issubclass(cls, base) else set()
    found = {path: sorted(attributes_of(cls, LIGHTNING) - of_base), f"{path}(...)": parameters_of(cls.__init__)}
    for method in METHODS.get(path, ()):
        if hasattr(cls, method):
            found[f"{path}.{method}(...)"] = [one for one in parameters_of(getattr(cls, method)) if one != "cls"]
    return {key: names for key, names in found.items() if names}


def read() -> dict[str, dict[str, str]]:
    """Return the file: by path, each name with the generations that have it, "1", "2" or "12"."""
    written = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {path: {name: gens or "12" for name, _, gens in (one.partition("@") for one in text.split())}
            for path, text in written.items()}  # fmt: skip


def write(package: ModuleType) -> None:
    """Put the names of this Lightning into the file in place of those of its generation."""
    mine, known = generation_of(package), read() if FILE.exists() else {}
    merged: dict[str, dict[str, str]] = {
        path: {name: gens.replace(mine, "") for name, gens in names.items()} for path, names in known.items()
    }
    for path, listed in public_names(package).items():
        for name in listed:
            names = merged.setdefault(path, {})
            names[name] = "".join(sorted({*names.get(name, ""), mine}))
    lines = [
        "# The public names of Lightning, by path; made by lightning_public.py. @1 and @2: of one generation alone."
    ]
    for path in sorted(merged):
        marked = [name if gens == "12" else f"{name}@{gens}" for name, gens in sorted(merged[path].items()) if gens]
        if marked:
            lines += [f'"{path}" = """', *textwrap.wrap(" ".join(marked), 118, break_on_hyphens=False), '"""']
    FILE.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    write(importlib.import_module(*sys.argv[1:] or ["pytorch_lightning"]))
