"""The names of a new family, made of one and checked: what is imported, installed and listed must be free."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from leyden import callbacks
from leyden.discovery import installed_callbacks, installed_factories
from leyden.discovery.installed import canonical, name_and_version
from leyden.errors import MisconfigurationException

__all__ = ["FamilyNames", "choose_names"]

_PREFIX = "callbacks-"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_IN_THE_TEMPLATES = {"Any", "CSVLogger", "LightningModule", "Mapping", "Optimizer", "Path", "Trainer"}


@dataclass(frozen=True, slots=True)
class FamilyNames:
    """What a new family is called.

    Example:
        >>> choose_names("callbacks-gpu-watch").words()["package"]
        'leyden_gpu_watch'
    """

    name: str
    distribution: str
    package: str
    class_name: str

    @property
    def folder(self) -> str:
        return f"{_PREFIX}{self.name}"

    @property
    def factory(self) -> str:
        """The name of its factory, by which a configuration allows and denies it."""
        return self.name.replace("-", "_")

    @property
    def module(self) -> str:
        """The module of the callback within the package: its class in snake case."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self.class_name).lower()

    def words(self) -> dict[str, str]:
        """Return what stands in the templates for each of their words."""
        return {
            "distribution": self.distribution,
            "package": self.package,
            "module": self.module,
            "class_name": self.class_name,
            "factory": self.factory,
            "leyden": _requirement(),
        }


def choose_names(
    given: str, *, class_name: str | None = None, distribution: str | None = None, package: str | None = None
) -> FamilyNames:
    """Make all names of ``callbacks-NAME``, but for those that are given.

    Raises:
        MisconfigurationException: one of them cannot be had: what it is taken by, or why not, and what to write.
    """
    name = _name_of(given)
    names = FamilyNames(
        name,
        distribution=f"leyden-callbacks-{name}" if distribution is None else distribution,
        package=f"leyden_{name.replace('-', '_')}" if package is None else package,
        class_name="".join(word.capitalize() for word in name.split("-")) if class_name is None else class_name,
    )
    for problem in (*_with_the_distribution(names), *_with_the_package(names), *_with_the_class(names)):
        raise MisconfigurationException(f"leyden new {given}: {problem}")
    for entry_point in installed_factories():
        if canonical(entry_point.name) == canonical(name):
            raise MisconfigurationException(
                f"leyden new {given}: {name_and_version(entry_point.dist)[0]}, which is installed here, has a factory "
                f"called {entry_point.name!r}. Choose another NAME."
            )
    return names


def _name_of(given: str) -> str:
    name = given.removeprefix(_PREFIX)
    if name != given and _NAME.fullmatch(name):
        return name
    near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"^[^a-z]*callbacks?\b", "", given.lower().replace("_", "-"))).strip("-")
    message = f"leyden new {given!r}: expected callbacks-NAME, with a NAME of lower-case letters, digits and dashes"
    wanted = f" Write: leyden new {_PREFIX}{near}" if _NAME.fullmatch(near) else ""
    raise MisconfigurationException(f"{message} that begins with a letter.{wanted}")


def _with_the_distribution(names: FamilyNames) -> Iterator[str]:
    wanted = canonical(names.distribution)
    if not _DISTRIBUTION.fullmatch(names.distribution):
        yield (
            f"--distribution={names.distribution!r} cannot be the name of a distribution. Letters, digits and . _ - "
            "between them can, such as leyden-callbacks-gpu-watch."
        )
    elif wanted in map(canonical, callbacks.families()):
        yield f"{names.distribution} is one of leyden's own families. Choose another NAME, or give a --distribution."
    elif (found := _installed_version(wanted)) is not None:
        yield (
            f"the distribution {names.distribution} {found} is installed here. Choose another NAME, give a "
            f"--distribution, or if it is yours, pip uninstall {names.distribution}"
        )


def _with_the_package(names: FamilyNames) -> Iterator[str]:
    package = names.package
    instead = "Choose another NAME, or give a --package."
    if not package.isidentifier() or not package.isascii() or package != package.lower() or keyword.iskeyword(package):
        yield (
            f"--package={package!r} cannot be imported by everyone. Give a name of lower-case letters, digits and "
            "underscores that is no keyword, such as leyden_gpu_watch."
        )
    elif package in sys.stdlib_module_names:
        yield f"the package {package} would hide the module {package} of the standard library. {instead}"
    elif package in (family.replace("leyden-callbacks-", "leyden_") for family in callbacks.families()):
        yield f"{package} is the package of one of leyden's own families. {instead}"
    elif _can_be_imported(package):
        yield f"a package {package} is installed here already. {instead}"


def _with_the_class(names: FamilyNames) -> Iterator[str]:
    name, module = names.class_name, names.module
    instead = "Give another by --class."
    if not name.isidentifier() or not name.isascii() or not name[0].isupper() or keyword.iskeyword(name):
        yield f"{name!r} cannot be the name of a class. Give one such as GpuWatch by --class."
    elif name in callbacks.__all__ or any(one.name == name for one in installed_callbacks()):
        yield f"there is a callback {name} already, and a configuration could not tell them apart. {instead}"
    elif hasattr(builtins, name) or name in _IN_THE_TEMPLATES:
        yield f"a class {name} would hide another of this name. {instead}"
    elif keyword.iskeyword(module) or module == "factory":
        yield f"the class {name} would stand in a module {module}.py, which there cannot be. {instead}"


def _can_be_imported(package: str) -> bool:
    try:
        found = find_spec(package)
    except ValueError:  # a module that was made without a specification is there too
        return True
    return found is not None and found.origin is not None  # a mere folder on the path has none


def _installed_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _requirement() -> str:
    """Return the versions of leyden to depend on: this minor version, of a 1.x all that follow."""
    import leyden

    major, minor, *_ = leyden.__version__.split(".")
    return f"leyden>={major}.{minor},<{f'0.{int(minor) + 1}' if major == '0' else int(major) + 1}"
