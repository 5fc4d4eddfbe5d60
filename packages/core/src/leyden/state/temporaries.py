"""Temporary files of saves: made beside their target, and removed by a later save where a killed run left them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: left-over files stay, for nothing proves there that their writer is gone
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_temporary", "make_temporary", "make_temporary_folder", "remove_abandoned", "temporary_name"]

_OWN = re.compile(r"\..*\.leyden-(?P<host>[0-9a-f]{8})-\d+-[0-9a-f]{8}\.tmp", re.DOTALL)
_LONGEST_STEM_BYTES = 100  # file systems take names of 255 bytes
_OPEN = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def temporary_name(name: str) -> str:
    """Return a new name for what becomes `name`; it says which host and process writes it."""
    stem = os.fsdecode(os.fsencode(name)[:_LONGEST_STEM_BYTES])
    return f".{stem}.leyden-{_host()}-{os.getpid()}-{os.urandom(4).hex()}.tmp"


def is_temporary(name: str) -> bool:
    """Whether `temporary_name` gave this name, here or on another host."""
    return _OWN.fullmatch(name) is not None


def make_temporary(target: Path) -> tuple[int, Path]:
    """Create the file beside `target` and return its descriptor, which holds the lock that says it is being written.

    The lock goes with the process however that ends, and unlike a process id it is never another's and holds across
    containers. Children that were forked meanwhile keep it: then the file is removed only when they are gone too.
    """
    while True:
        path = target.with_name(temporary_name(target.name))
        descriptor = os.open(path, _OPEN, 0o666)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink:
            return descriptor, path
        os.close(descriptor)  # between the two calls another save took it for abandoned


def make_temporary_folder(target: Path) -> tuple[int, Path]:
    """Create a folder beside `target` and return a descriptor that holds its lock, as that of a file does."""
    while True:
        path = target.with_name(temporary_name(target.name))
        path.mkdir()
        if fcntl is None:
            return os.open(os.devnull, os.O_RDONLY), path
        descriptor = os.open(path, os.O_RDONLY)
        if _lock(descriptor) is not False and path.is_dir():
            return descriptor, path
        os.close(descriptor)


def remove_abandoned(folder: Path) -> None:
    """Remove the temporaries whose writers are gone: of this host alone, and only those that nobody holds locked.

    A network file system may keep locks within each host; hence those of other hosts are left alone. Links cannot be
    locked and are always removed: whoever is making one makes it again.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # a save must not fail by what it tidies up
        for entry in entries:
            own = _OWN.fullmatch(entry.name)
            if own is None or own["host"] != _host():
                continue
            if entry.is_symlink():
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
            elif entry.is_file():
                _remove_if_abandoned(entry.path, os.O_RDWR, os.unlink)
            elif entry.is_dir():
                _remove_if_abandoned(entry.path, os.O_RDONLY, shutil.rmtree)


def _remove_if_abandoned(path: str, mode: int, remove: Callable[[str], object]) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, mode | getattr(os, "O_NOFOLLOW", 0))
        try:
            if _lock(descriptor):
                remove(path)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether the file is now locked by this descriptor; None where the file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@functools.cache
def _host() -> str:
    """Eight hexadecimal digits for this machine; containers on it that have names of their own count as others."""
    machine = ""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_text("utf-8").strip()
    return hashlib.sha256(f"{socket.gethostname()}\n{machine}".encode()).hexdigest()[:8]
