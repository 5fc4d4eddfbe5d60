"""Callbacks for transfer learning with leyden: parts of a module stay frozen first and are trained later.

Importing this package imports no callback: each name brings its module when it is asked for, so that the factory that
every `Trainer` calls costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden_finetune.backbone import BackboneFinetuning
    from leyden_finetune.base import BaseFinetuning

__all__ = ["BackboneFinetuning", "BaseFinetuning"]

_MODULE = {
    "BackboneFinetuning": "backbone",
    "BaseFinetuning": "base",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return __all__
