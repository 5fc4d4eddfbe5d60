"""Save and restore runs, and write predictions: `ModelCheckpoint` and its kin."""

from __future__ import annotations

from leyden_checkpoint.model_checkpoint import ModelCheckpoint
from leyden_checkpoint.on_exception import OnExceptionCheckpoint
from leyden_checkpoint.prediction_writer import BasePredictionWriter

__all__ = ["BasePredictionWriter", "ModelCheckpoint", "OnExceptionCheckpoint"]
