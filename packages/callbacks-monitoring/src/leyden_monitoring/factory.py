"""What installing this family attaches to a Trainer by itself."""

from __future__ import annotations

from leyden.callback import Callback

__all__ = ["make_callbacks"]


def make_callbacks() -> list[Callback]:
    """Bar, model summary, learning rates, throughput, device statistics; each says (`applies`) whether it has a use."""
    from leyden_monitoring import (
        DeviceStatsMonitor,
        LearningRateMonitor,
        ModelSummary,
        ThroughputMonitor,
        TQDMProgressBar,
    )

    return [
        TQDMProgressBar(),
        ModelSummary(),
        LearningRateMonitor(),
        ThroughputMonitor(),
        DeviceStatsMonitor(cpu_stats=False),  # where there is no GPU to watch, it is for those who ask
    ]
