"""Ctrl-C, held back for the moment in which it would leave something half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection
from types import CodeType, FrameType

__all__ = ["HeldInterrupts"]


class HeldInterrupts:
    """Holds a Ctrl-C back that arrives within one of some functions, until `let_go`; a second one interrupts at once.

    What runs is looked up when the signal arrives, so that nothing is done before. Python runs signal handlers in the
    main thread only: in another thread, and where somebody has a handler of his own, nothing is held back.

    Arguments that types don't explain:
        within: code of the functions in which to hold it back.
        but_not_within: code of functions called by these in which to interrupt at once.
    """

    __slots__ = ("_but_not_within", "_is_held", "_listens", "_within")

    def __init__(self, within: Collection[CodeType], but_not_within: Collection[CodeType]) -> None:
        self._within, self._but_not_within = frozenset(within), frozenset(but_not_within)
        self._is_held = self._listens = False

    def start(self) -> None:
        """Begin to hold back."""
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._listens = True
        self._is_held = False

    def stop(self) -> None:
        """Give the signal back, unless somebody has set a handler of his own meanwhile."""
        if self._listens and signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._listens = False

    def let_go(self) -> None:
        """Raise the interrupt that was held back, if there was one."""
        if self._is_held:
            self._is_held = False
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._is_held and self._is_within(frame):
            self._is_held = True
        else:
            self._is_held = False
            signal.default_int_handler(number, frame)

    def _is_within(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code in self._but_not_within:
                return False
            if frame.f_code in self._within:
                return True
            frame = frame.f_back
        return False
