"""What installing this family attaches to a Trainer by itself: nothing."""

from __future__ import annotations

from leyden.callback import Callback

__all__ = ["make_callbacks"]


def make_callbacks() -> list[Callback]:
    """No callbacks: installing a distribution must not change what is trained."""
    return []
