"""Callbacks for transfer learning with leyden: parts of a module stay frozen first and are trained later."""

from __future__ import annotations

from leyden_finetune.backbone import BackboneFinetuning
from leyden_finetune.base import BaseFinetuning

__all__ = ["BackboneFinetuning", "BaseFinetuning"]
