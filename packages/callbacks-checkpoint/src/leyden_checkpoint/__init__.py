"""Save and restore runs: `ModelCheckpoint`."""

from __future__ import annotations

from leyden_checkpoint.model_checkpoint import ModelCheckpoint

__all__ = ["ModelCheckpoint"]
