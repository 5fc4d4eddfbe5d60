"""What installing this family attaches to a Trainer by itself."""

from __future__ import annotations

from leyden.callback import Callback

__all__ = ["make_callbacks"]


def make_callbacks() -> list[Callback]:
    """A progress bar, a model summary, learning rates, throughput; each says (`applies`) whether it has a use here."""
    from leyden_monitoring import LearningRateMonitor, ModelSummary, ThroughputMonitor, TQDMProgressBar

    return [TQDMProgressBar(), ModelSummary(), LearningRateMonitor(), ThroughputMonitor()]
