"""A kit for those who write callbacks: a small module that trains at once, and a recorder of the order of hooks."""

from __future__ import annotations

from leyden.testing.models import BoringModule, RandomDataset
from leyden.testing.recorder import HookRecorder

__all__ = ["BoringModule", "HookRecorder", "RandomDataset"]
