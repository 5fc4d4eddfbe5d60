"""A check leaves the process as it found it, and this is also how what a callback leaves behind is found."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from leyden.seed import isolate_rng

__all__ = ["left_untouched", "process_marks", "what_is_left"]


@contextlib.contextmanager
def left_untouched() -> Iterator[None]:
    """Give back random state, folder, environment, warnings and settings of torch; nothing is printed inside."""
    folder, environment = os.getcwd(), dict(os.environ)
    handlers = {number: _of_signal(number) for number in signal.valid_signals() if _is_named(number)}
    grad, dtype, threads = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
    log = logging.getLogger("leyden")
    level = log.level
    with (
        isolate_rng(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL + 1)  # what a run ends with is raised, too
        try:
            yield
        finally:
            log.setLevel(level)
            os.chdir(folder)
            _set_environment(environment)
            _set_handlers(handlers)
            torch.set_grad_enabled(grad)
            torch.set_default_dtype(dtype)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def _set_handlers(before: dict[Any, Any]) -> None:
    for number, handler in before.items():
        if handler is not None and _of_signal(number) is not handler:
            with contextlib.suppress(ValueError, OSError):  # not in the main thread: nor was it changed there
                signal.signal(number, handler)


def _set_environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


_OF_TORCH = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Set where torch first imports its compiler, which the first optimizer of a process does."""


def process_marks() -> dict[str, dict[str, Any]]:
    """Return what of the process a run may not leave changed, by kind and name."""
    return {
        "thread": {f"{one.name!r}": one.ident for one in threading.enumerate()},
        "open file": _open_files(),
        "signal handler": {number.name: _of_signal(number) for number in signal.valid_signals() if _is_named(number)},
        "environment variable": {name: value for name, value in os.environ.items() if name not in _OF_TORCH},
        "hook of the interpreter": {
            name: getattr(sys, name) for name in ("excepthook", "displayhook", "breakpointhook")
        }
        | {"threading.excepthook": threading.excepthook},
        "setting of torch": {
            "gradients": torch.is_grad_enabled(),
            "default dtype": torch.get_default_dtype(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        },
        "working folder": {"": os.getcwd()},
    }


def what_is_left(before: dict[str, dict[str, Any]]) -> str:
    """Say in what the process is not as `process_marks` found it, "" for nothing."""
    if _difference(before, process_marks()):
        gc.collect()  # what is garbage is not left; asked for only where it matters, since it takes a quarter second
    return _difference(before, process_marks())


def _difference(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> str:
    for kind, marks in after.items():
        for name, value in marks.items():
            if name not in before[kind]:
                return f"the {kind} {name}".rstrip()
            if before[kind][name] != value:
                return f"another {kind} {name}".rstrip()
        for name in before[kind]:
            if name not in marks and kind in ("environment variable", "signal handler"):
                return f"no {kind} {name}"
    return ""


def _is_named(number: Any) -> bool:
    return isinstance(number, signal.Signals)


def _of_signal(number: signal.Signals) -> Any:
    try:
        return signal.getsignal(number)
    except ValueError:
        return None


def _open_files() -> dict[str, Any]:
    """Return the files that are open, by path; no two pipes have one name."""
    folder = Path("/proc/self/fd")
    found: dict[str, Any] = {}
    if folder.is_dir():
        for entry in folder.iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(entry)
                if not target.startswith(("/proc/", "/dev/")):
                    found[target] = True
    return found
