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
        import leyden_monitoring
    except ModuleNotFoundError as error:
        if error.name != "leyden_monitoring":
            raise
        raise ImportError(
            "TensorBoardLogger is in a distribution of its own. To install it: pip install leyden-callbacks-monitoring"
        ) from error
    if not hasattr(leyden_monitoring, name):
        raise ImportError(
            "The leyden-callbacks-monitoring that is installed has no TensorBoardLogger yet. A later one has: "
            "pip install --upgrade leyden-callbacks-monitoring; until then log to a CSVLogger."
        )
    return leyden_monitoring.TensorBoardLogger
