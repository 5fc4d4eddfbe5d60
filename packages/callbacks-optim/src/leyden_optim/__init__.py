"""Steer optimisation: stop early (`EarlyStopping`), stop on time (`Timer`)."""

from __future__ import annotations

from leyden_optim.early_stopping import EarlyStopping, EarlyStoppingReason
from leyden_optim.timer import Timer

__all__ = ["EarlyStopping", "EarlyStoppingReason", "Timer"]
