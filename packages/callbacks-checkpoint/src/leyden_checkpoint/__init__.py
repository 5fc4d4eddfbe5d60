"""Save and restore runs: `ModelCheckpoint` and its kin."""

from __future__ import annotations

from leyden_checkpoint.model_checkpoint import ModelCheckpoint
from leyden_checkpoint.on_exception import OnExceptionCheckpoint

__all__ = ["ModelCheckpoint", "OnExceptionCheckpoint"]
