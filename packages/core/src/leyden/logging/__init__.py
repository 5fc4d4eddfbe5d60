"""Collecting the values of ``self.log``: by the hook they were logged in, reduced over steps, written to loggers."""

from __future__ import annotations

from leyden.logging.journal import Journal
from leyden.logging.metrics import MetricsDict

__all__ = ["Journal", "MetricsDict"]
