"""What only the first process of a run should do: print, warn, write."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import ParamSpec, TypeVar, overload

__all__ = ["rank_zero_deprecation", "rank_zero_info", "rank_zero_only", "rank_zero_warn"]

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")

_RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
_PACKAGE = str(Path(__file__).parent) + os.sep


class _StderrUnlessConfigured(logging.Handler):
    """Shows the messages of a program that has not configured logging; steps back for one that has."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(self.format(record), file=sys.stderr)


_log = logging.getLogger("leyden")
if _log.level == logging.NOTSET:
    _log.setLevel(logging.INFO)
_log.addHandler(_StderrUnlessConfigured())


def _rank_from_environment() -> int:
    for variable in _RANK_VARIABLES:
        value = os.environ.get(variable, "")
        if value.isdigit():
            return int(value)
    return 0


class _RankZeroOnly:
    """The decorator `rank_zero_only`; an object so that its `rank` can be set once the processes know their numbers."""

    def __init__(self) -> None:
        self.rank = _rank_from_environment()

    @overload
    def __call__(self, fn: Callable[P, R]) -> Callable[P, R | None]: ...
    @overload
    def __call__(self, fn: Callable[P, R], default: D) -> Callable[P, R | D]: ...
    def __call__(self, fn: Callable[P, R], default: D | None = None) -> Callable[P, R | D | None]:
        @wraps(fn)
        def call_on_rank_zero(*args: P.args, **kwargs: P.kwargs) -> R | D | None:
            return fn(*args, **kwargs) if self.rank == 0 else default

        return call_on_rank_zero


rank_zero_only = _RankZeroOnly()
"""Decorator: the function runs in the process with global rank 0 and returns `default` in every other.

`rank_zero_only.rank` starts from the launcher's environment (``RANK``, ``LOCAL_RANK``, ``SLURM_PROCID``; 0 without
one) and may be set.

Example:
    >>> @rank_zero_only
    ... def greet() -> str:
    ...     return "hello"
    >>> greet()
    'hello'
"""


def rank_zero_info(message: object, *args: object) -> None:
    """Log `message` at level INFO on the logger ``leyden``, in the first process only.

    Shown on stderr unless the program has configured logging; `args` are %-formatted in as `logging` does.
    """
    if rank_zero_only.rank == 0:
        _log.info(message, *args)


def rank_zero_warn(message: str, category: type[Warning] = UserWarning, *, stacklevel: int | None = None) -> None:
    """Warn in the first process only.

    Without `stacklevel` the warning points at the line outside Leyden that led here, which is what a user can change;
    with it, it counts as in `warnings.warn` (1 is the line that calls this function).
    """
    if rank_zero_only.rank == 0:
        level = stacklevel + 1 if stacklevel is not None else _level_outside_package()
        warnings.warn(message, category, stacklevel=level)


def rank_zero_deprecation(message: str, *, stacklevel: int | None = None) -> None:
    """Warn with a `DeprecationWarning`, in the first process only; see `rank_zero_warn`."""
    if rank_zero_only.rank == 0:
        level = stacklevel + 1 if stacklevel is not None else _level_outside_package()
        warnings.warn(message, DeprecationWarning, stacklevel=level)


def _level_outside_package() -> int:
    """The `stacklevel`, for a `warnings.warn` in the calling function, of the nearest frame that is not Leyden's."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level if frame is not None else 1
