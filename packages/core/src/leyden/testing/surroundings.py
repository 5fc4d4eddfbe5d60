"""A check leaves the process as it found it, and this is also how what a callback leaves behind is found."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leyden.seed import isolate_rng
from leyden.testing.process_state import SETTINGS, Functions, child_processes, global_hooks, log_handlers

__all__ = ["Surroundings", "left_untouched", "process_marks", "temporary_folder", "what_is_left"]


class Surroundings:
    """What the process was like when this was made, but for random numbers, warnings and output."""

    def __init__(self) -> None:
        self._folder, self._environment, self._path = os.getcwd(), dict(os.environ), list(sys.path)
        self._handlers = {number: _of_signal(number) for number in signal.valid_signals() if _is_named(number)}
        self._settings = {name: get() for name, (get, _) in SETTINGS.items()}
        self._functions, self._hooks, self._log_handlers = Functions(), global_hooks(), log_handlers()
        self._trace = sys.gettrace()

    def put_back(self) -> None:
        os.chdir(self._folder)
        self._put_back_environment()
        for number, handler in self._handlers.items():
            if handler is not None and _of_signal(number) is not handler:
                with contextlib.suppress(ValueError, OSError):  # not in the main thread: nor was it changed there
                    signal.signal(number, handler)
        for name, (get, put) in SETTINGS.items():
            if get() != self._settings[name]:  # setting the number of threads costs, were it the same
                put(self._settings[name])
        self._functions.put_back()
        for name, (of_kind, key) in global_hooks().items():
            if name not in self._hooks:
                del of_kind[key]
        for name, (logger, log_handler) in log_handlers().items():
            if name not in self._log_handlers:
                logger.removeHandler(log_handler)
        if sys.path != self._path:
            sys.path[:] = self._path
        if sys.gettrace() is not self._trace:
            sys.settrace(self._trace)

    def _put_back_environment(self) -> None:
        for name in set(os.environ) - set(self._environment):
            del os.environ[name]
        for name, value in self._environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


@contextlib.contextmanager
def left_untouched() -> Iterator[Surroundings]:
    """Give back what `Surroundings` keeps, random state and warnings; nothing is printed inside."""
    surroundings = Surroundings()
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
            yield surroundings
        finally:
            log.setLevel(level)
            surroundings.put_back()


_OF_TORCH = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Set where torch first imports its compiler, which the first optimizer of a process does."""


@contextlib.contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Let what is temporary go to a folder where nobody else writes."""
    before, tempfile.tempdir = tempfile.gettempdir(), str(folder)
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        tempfile.tempdir = before


def process_marks(temporary: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return what of the process a run may not leave changed, by kind and name, and what is in a `temporary_folder`."""
    return {
        "thread": {f"{one.name!r}": one.ident for one in threading.enumerate()},
        "open file": _open_files(),
        "signal handler": {number.name: _of_signal(number) for number in signal.valid_signals() if _is_named(number)},
        "environment variable": {name: value for name, value in os.environ.items() if name not in _OF_TORCH},
        "hook of the interpreter": {
            name: getattr(sys, name) for name in ("excepthook", "displayhook", "breakpointhook")
        }
        | {"threading.excepthook": threading.excepthook, "trace": sys.gettrace()},
        "setting of torch:": {name: get() for name, (get, _) in SETTINGS.items()},
        "hook of all modules": dict.fromkeys(global_hooks()),
        "log handler": dict.fromkeys(log_handlers()),
        "entry of sys.path": dict.fromkeys(map(repr, sys.path)),
        "process": {f"{name} ({number})": None for number, name in child_processes().items()},
        "temporary file": {} if temporary is None else {path.name: None for path in temporary.iterdir()},
        "working folder": {"": os.getcwd()},
    }


def what_is_left(before: dict[str, dict[str, Any]], temporary: Path | None = None) -> str:
    """Say in what the process is not as `process_marks` found it, "" for nothing."""
    if _difference(before, process_marks(temporary)):
        gc.collect()  # what is garbage is not left; asked for only where it matters, since it takes a quarter second
    return _difference(before, process_marks(temporary))


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
