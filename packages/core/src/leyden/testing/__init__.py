"""A kit for those who write callbacks: checks of what makes a good one, small modules and data, a recorder of hooks."""

from __future__ import annotations

from leyden.testing.callback_check import callback_tests, check_callback
from leyden.testing.classifier import TinyClassifier
from leyden.testing.data import RandomData, RandomDataset, RandomStream
from leyden.testing.models import BoringModule, ManualModule, SeveralLoadersModule
from leyden.testing.recorder import HookRecorder
from leyden.testing.recording import record_hooks
from leyden.testing.report import CallbackReport, Result

__all__ = [
    "BoringModule",
    "CallbackReport",
    "HookRecorder",
    "ManualModule",
    "RandomData",
    "RandomDataset",
    "RandomStream",
    "Result",
    "SeveralLoadersModule",
    "TinyClassifier",
    "callback_tests",
    "check_callback",
    "record_hooks",
]
