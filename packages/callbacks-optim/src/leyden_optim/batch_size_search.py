"""Which batch sizes to try, and whether one fits: the arithmetic of the search for the largest."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Literal

import torch

__all__ = ["Mode", "free_memory", "is_out_of_memory", "largest"]

Mode = Literal["power", "binsearch"]

_WORDS = (
    "out of memory", "can't allocate memory", "not enough memory", "cudnn_status_not_supported", "_alloc_failed",
)  # fmt: skip
"""What drivers, libraries (such as CUBLAS_STATUS_ALLOC_FAILED) and allocators say when there is no room, in errors that
have no class of their own."""


def largest(
    fits: Callable[[int], bool], mode: Mode, *, first: int, trials: int, limit: Callable[[], int], margin: float
) -> int | None:
    """Return the largest batch size of those tried that `fits`; None where none does.

    Sizes are doubled from `first` on until one does not fit; where that does not, they are halved. ``"binsearch"``
    goes on between the largest that fits and the smallest that does not, and takes `margin` off, as a part, where any
    did not fit.

    Args:
        trials: how many sizes are tried at most.
        limit: the largest size that makes sense; asked after each trial.

    Example:
        >>> largest(lambda size: size <= 50, "power", first=2, trials=25, limit=lambda: 8192, margin=0.0)
        32
        >>> largest(lambda size: size <= 50, "binsearch", first=2, trials=25, limit=lambda: 8192, margin=0.0)
        50
    """
    low, high, size = 0, None, min(first, limit())
    for _ in range(trials):
        if fits(size):
            low = size
        else:
            high = size
        top = limit()
        if high is None:
            if low >= top:
                break
            size = min(2 * low, top)
        elif high - low <= 1 or (mode == "power" and low):
            break
        else:
            size = high // 2 if mode == "power" or not low else (low + high) // 2
    if not low:
        return None
    low = min(low, limit())
    return max(1, int(low * (1 - margin))) if mode == "binsearch" and high is not None else low


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that there was no room for something.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shapes"))
        (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def free_memory() -> None:
    """Give back what a trial left behind."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
