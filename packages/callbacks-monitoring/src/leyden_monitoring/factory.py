"""What installing this family attaches to a Trainer by itself."""

from __future__ import annotations

from leyden.callback import Callback

__all__ = ["make_callbacks"]


def make_callbacks() -> list[Callback]:
    """A progress bar and the learning rates; each says itself (`applies`) whether a trainer has a use for it."""
    from leyden_monitoring import LearningRateMonitor, TQDMProgressBar

    return [TQDMProgressBar(), LearningRateMonitor()]
