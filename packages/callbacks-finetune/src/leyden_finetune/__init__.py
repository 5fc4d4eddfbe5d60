"""Callbacks for transfer learning with leyden: parts of a module stay frozen first and are trained later.

Importing this package imports no callback: each name brings its module when it is asked for, so that the factory that
every `Trainer` calls costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.lazy_names import lazy_names

if TYPE_CHECKING:
    from leyden_finetune.backbone import BackboneFinetuning
    from leyden_finetune.base import BaseFinetuning

__all__ = ["BackboneFinetuning", "BaseFinetuning"]

_MODULE = {
    "BackboneFinetuning": "backbone",
    "BaseFinetuning": "base",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE)
