"""Names that a package has before their modules are imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, module_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports a name's module when the name is asked for.

    Args:
        package: its ``__name__``.
        module_of: the public names, each with the module within the package that has it.

    Example:
        A family's ``__init__.py`` has ``__getattr__, __dir__ = lazy_names(__name__, {"Timer": "timer"})``.

        >>> get, names = lazy_names("leyden", {"seed_everything": "seed"})
        >>> get("seed_everything").__module__, names()
        ('leyden.seed', ['seed_everything'])
    """

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next look-up finds it without coming here
        return value

    return get, lambda: sorted(module_of)
