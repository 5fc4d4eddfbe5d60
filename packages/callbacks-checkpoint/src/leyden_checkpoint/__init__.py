"""Save and restore runs, and write predictions: `ModelCheckpoint` and its kin.

Importing this package imports no callback: each name brings its module when it is asked for, so that the factory that
every `Trainer` calls costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.lazy_names import lazy_names

if TYPE_CHECKING:
    from leyden_checkpoint.model_checkpoint import ModelCheckpoint
    from leyden_checkpoint.on_exception import OnExceptionCheckpoint
    from leyden_checkpoint.prediction_writer import BasePredictionWriter

__all__ = ["BasePredictionWriter", "ModelCheckpoint", "OnExceptionCheckpoint"]

_MODULE = {
    "BasePredictionWriter": "prediction_writer",
    "ModelCheckpoint": "model_checkpoint",
    "OnExceptionCheckpoint": "on_exception",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE)
