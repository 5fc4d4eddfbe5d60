"""Loggers: where metrics and hyperparameters of a run are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.loggers.csv_logs import CSVLogger
from leyden.loggers.logger import Logger

if TYPE_CHECKING:
    from leyden_monitoring import TensorBoardLogger

__all__ = ["CSVLogger", "Logger", "TensorBoardLogger"]


def __getattr__(name: str) -> Any:
    if name != "TensorBoardLogger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from leyden_monitoring import TensorBoardLogger
    except ImportError as error:
        raise ImportError(
            "TensorBoardLogger is in a distribution of its own. To install it: pip install leyden-callbacks-monitoring"
        ) from error
    return TensorBoardLogger
