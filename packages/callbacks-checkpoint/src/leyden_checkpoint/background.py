"""Work that goes on beside training, and the names of files that are still being written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["RESERVED", "Background"]

RESERVED: set[str] = set()
"""Paths that some save in flight in this process will write: taken, although there may be no such file yet."""

T = TypeVar("T")


class Background(Generic[T]):
    """A call on a thread of its own; `result` waits for it.

    The interpreter waits for the thread when it exits, so that what was begun is finished.

    Example:
        >>> Background(lambda: 6 * 7).result()
        42
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._values: list[T] = []
        self._errors: list[BaseException] = []
        # Not Thread.join: one that Ctrl-C interrupts lets Python 3.11 and 3.12 take a thread that runs for finished.
        self._done = threading.Event()
        threading.Thread(target=self._run, name="leyden-checkpoint", daemon=False).start()

    def _run(self) -> None:
        try:
            self._values.append(self._call())
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._done.set()

    def wait(self) -> None:
        """Wait until the call has returned or raised; what it raised is not raised here."""
        self._done.wait()

    def result(self) -> T:
        """Wait until the call returns, and return or raise what it did."""
        self.wait()
        if self._errors:
            raise self._errors[0]
        return self._values[0]
