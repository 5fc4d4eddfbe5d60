"""Data for a run: loaders alone and combined, how much of them is read, and the way of a batch to the device."""

from __future__ import annotations

from leyden.data.combined import CombinedLoader
from leyden.data.sources import EvalSource, TrainSource
from leyden.data.transfer import compile_transfer, move_to_device

__all__ = ["CombinedLoader", "EvalSource", "TrainSource", "compile_transfer", "move_to_device"]
