"""A kit for those who write callbacks: small modules and data that train at once, and a recorder of hooks."""

from __future__ import annotations

from leyden.testing.data import RandomData, RandomDataset, RandomStream
from leyden.testing.models import BoringModule, ManualModule, SeveralLoadersModule
from leyden.testing.recorder import HookRecorder, record_hooks

__all__ = [
    "BoringModule",
    "HookRecorder",
    "ManualModule",
    "RandomData",
    "RandomDataset",
    "RandomStream",
    "SeveralLoadersModule",
    "record_hooks",
]
