"""Memory that is new to whoever is measured."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["take_memory_anew"]

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def take_memory_anew() -> None:
    """Let each large tensor's memory come from the system, as in a new process, and go back there.

    Left to itself, glibc keeps freed memory by rules of its own: whoever finds it is six times as fast, and a process
    may hold 80 MB more than another that did the same.
    """
    with contextlib.suppress(OSError, AttributeError):  # another system's C library
        ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, 2**20)
