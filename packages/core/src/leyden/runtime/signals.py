"""SIGTERM, heard between batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

__all__ = ["SigtermListener"]


class SigtermListener:
    """Calls `heard` when SIGTERM arrives, while it is listening; a handler that was there before is called too.

    Python runs signal handlers in the main thread only, so that in another thread nothing is listened to.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard
        self._before: Any = None
        self._listening = False

    def start(self) -> None:
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._handle)
            self._listening = True

    def stop(self) -> None:
        """Give the signal back to whoever had it."""
        if self._listening:
            # None stands for a handler that was not installed from Python, which cannot be put back.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)
            self._listening = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._heard()
        if callable(self._before):
            self._before(number, frame)
