"""Loggers: where metrics and hyperparameters of a run are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.loggers.csv_logs import CSVLogger
from leyden.loggers.logger import Logger

if TYPE_CHECKING:
    from leyden_monitoring import TensorBoardLogger

__all__ = ["CSVLogger", "Logger", "TensorBoardLogger"]


_OF_SERVICES = ("CometLogger", "LitLogger", "MLFlowLogger", "NeptuneLogger", "WandbLogger")
"""Loggers of Lightning that are not here."""


def __getattr__(name: str) -> Any:
    if name in _OF_SERVICES:
        raise ImportError(
            f"{name} is not here: loggers of services are not part of this package. To log there, subclass "
            "leyden.loggers.Logger and call the service's own client in log_metrics and log_hyperparams.",
            name=__name__,
        )
    if name != "TensorBoardLogger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import leyden_monitoring
    except ModuleNotFoundError as error:
        if error.name != "leyden_monitoring":
            raise
        raise ImportError(
            "TensorBoardLogger is in the distribution leyden-callbacks-monitoring, which is not installed here. "
            "To install it: pip install leyden-callbacks-monitoring",
            name=error.name,
        ) from None
    try:
        value = leyden_monitoring.TensorBoardLogger
    except AttributeError:
        raise ImportError(
            "The installed leyden-callbacks-monitoring has no TensorBoardLogger. To get one that has: "
            "pip install --upgrade leyden-callbacks-monitoring",
            name="leyden_monitoring",
        ) from None
    globals()[name] = value  # the next look-up finds it without coming here
    return value
