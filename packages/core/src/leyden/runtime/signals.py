"""SIGTERM, heard between batches."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

__all__ = ["SigtermListener", "is_of_lost_workers"]


class SigtermListener:
    """Calls `heard` when SIGTERM arrives, while it is listening; a handler that was there before is called too.

    Who ends a process often ends those that it started too, as Slurm and systemd do. So from then on workers of a
    DataLoader may go without an error in the middle of a batch; `is_of_lost_workers` knows that of reading another.

    Python runs signal handlers in the main thread only, so that in another thread nothing is listened to.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard
        self._before: Any = None
        self._of_children: Any = None
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
        if self._of_children is not None:
            signal.signal(signal.SIGCHLD, self._of_children)
            self._of_children = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._heard()
        try:
            if callable(self._before):
                self._before(number, frame)
        finally:
            self._let_workers_go()

    def _let_workers_go(self) -> None:
        before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        # A listener from before this one, of a run in whose hook this one is, has done so already.
        if callable(before) and getattr(before, "func", None) is not _without_lost_workers:
            self._of_children = before
            signal.signal(signal.SIGCHLD, partial(_without_lost_workers, before))


def _without_lost_workers(handler: Callable[..., Any], number: int, frame: FrameType | None) -> None:
    try:
        handler(number, frame)
    except RuntimeError as error:  # torch raises it wherever the run is, be it in an optimizer's step
        if not is_of_lost_workers(error):
            raise


def is_of_lost_workers(error: BaseException) -> bool:
    """Whether `error` says that workers of a DataLoader are gone."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
