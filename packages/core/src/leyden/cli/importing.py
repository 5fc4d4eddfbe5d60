"""Finds what ``package.module:Class`` or ``path/to/file.py:Class`` names, and says in one line why it cannot."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["imported"]


def imported(target: str, kinds: tuple[type, ...]) -> object:
    """Import a module, found from the working folder too, and return what `target` names in it.

    What the module prints goes to stderr. Raises `MisconfigurationException` with the cause, or with the names of what
    the module has of `kinds`.
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        first, dot, last = target.rpartition(".")
        guess = f", here perhaps {first}:{last}" if not colon and dot and last != "py" else ""
        raise MisconfigurationException(f"{target!r}: expected package.module:Class or path/to/file.py:Class{guess}.")
    with redirect_stdout(sys.stderr):
        module = _module_of_file(Path(where)) if where.endswith(".py") else _module_named(where)
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise MisconfigurationException(_no_such_name(module, name, kinds)) from None
    return found


def _module_named(name: str) -> ModuleType:
    with _first_on_path(os.getcwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or name
            if name == missing or name.startswith(f"{missing}."):
                raise MisconfigurationException(
                    f"there is no module {missing!r}, neither installed nor below {os.getcwd()}; a file is given by "
                    "its path: path/to/file.py:Class."
                ) from None
            raise _failed(name, error) from error
        except BaseException as error:
            raise _failed(name, error) from error


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise MisconfigurationException(f"there is no file {str(path)!r} in {os.getcwd()}.")
    package = path.resolve().parent
    if (package / "__init__.py").is_file():
        return _module_of_package(path)
    return _module_alone(path)


def _module_of_package(path: Path) -> ModuleType:
    """Import a file as the module of its package that it is, so that its relative imports reach their targets."""
    root = path.resolve().parent
    parts = [] if path.stem == "__init__" else [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    name = ".".join(parts)
    with _first_on_path(str(root)):
        try:
            return importlib.import_module(name)
        except BaseException as error:
            raise _failed(f"{path} as {name}", error) from error


def _module_alone(path: Path) -> ModuleType:
    # Under its own name it could stand in for a module that others import: my/random.py must not become `random`.
    name = f"leyden_cli_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise MisconfigurationException(f"{str(path)!r} cannot be imported: it is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, among others, look for the module of a class here
    with _first_on_path(str(path.resolve().parent)), _first_on_path(os.getcwd()):
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            raise _failed(str(path), error) from error
    return module


def _failed(what: str, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        return error
    cause = f"{type(error).__name__}: {error}".rstrip(": ")
    return MisconfigurationException(f"importing {what} failed with {cause}{_at(error)}.")


def _at(error: BaseException) -> str:
    """Return the innermost place of an error that is not Python's own import machinery."""
    if isinstance(error, SyntaxError):  # it names the file and the line itself
        return ""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and file != __file__ and Path(file).parent.name != "importlib":
            place = f" ({file}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _no_such_name(module: ModuleType, name: str, kinds: tuple[type, ...]) -> str:
    known = sorted(key for key, one in vars(module).items() if isinstance(one, type) and issubclass(one, kinds))
    there = f" What has hooks there: {', '.join(known)}." if known else " Nothing there has hooks."
    file = getattr(module, "__file__", None) or module.__name__
    return f"{file} has no {name!r}.{did_you_mean(name, known)}{there}"


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
