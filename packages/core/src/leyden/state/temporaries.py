"""Temporary files of saves: made beside their target, and removed by a later save where a killed run left them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: left-over files stay, for nothing proves there that their writer is gone
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "is_temporary",
    "keep_aside",
    "make_temporary",
    "make_temporary_folder",
    "remove_abandoned",
    "temporary_name",
    "was_kept_aside",
]

_OWN = re.compile(r"\..*\.leyden-(?P<host>[0-9a-f]{8})-\d+-[0-9a-f]{8}\.(?P<kind>tmp|old)", re.DOTALL)
_LONGEST_STEM_BYTES = 100  # file systems take names of 255 bytes
_OPEN = os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def temporary_name(name: str, kind: str = "tmp") -> str:
    """Return a new name for what becomes `name`; it says which host and process writes it."""
    stem = os.fsdecode(os.fsencode(name)[:_LONGEST_STEM_BYTES])
    return f".{stem}.leyden-{_host()}-{os.getpid()}-{os.urandom(4).hex()}.{kind}"


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


def make_temporary_folder(target: Path, kind: str = "tmp") -> tuple[int, Path]:
    """Create a folder beside `target` and return a descriptor that holds its lock, as that of a file does."""
    while True:
        path = target.with_name(temporary_name(target.name, kind))
        path.mkdir()
        if fcntl is None:
            return os.open(os.devnull, os.O_RDONLY), path
        descriptor = os.open(path, os.O_RDONLY)
        if _lock(descriptor) is not False and path.is_dir():
            return descriptor, path
        os.close(descriptor)


@contextlib.contextmanager
def keep_aside(target: Path) -> Iterator[None]:
    """Have `target` under another name while something takes its own; it is put back where nothing does.

    A process that is killed meanwhile leaves it in a folder of which `remove_abandoned` puts it back.
    """
    descriptor, folder = make_temporary_folder(target, "old")
    try:
        try:
            os.rename(target, folder / target.name)
            yield
        except BaseException:
            if os.path.lexists(folder / target.name) and not os.path.lexists(target):
                os.rename(folder / target.name, target)
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        _remove_kept(folder)
    finally:
        os.close(descriptor)


def was_kept_aside(path: Path) -> bool:
    """Whether `path` is where `keep_aside` has put something."""
    own = _OWN.fullmatch(path.parent.name)
    return own is not None and own["kind"] == "old"


def remove_abandoned(folder: Path) -> None:
    """Remove the temporaries whose writers are gone: of this host alone, and only those that nobody holds locked.

    What one of them kept aside when it was killed, while nothing had its name, is put back.

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
                _remove_if_abandoned(entry.path, os.O_RDONLY, _put_back if own["kind"] == "old" else shutil.rmtree)


def _remove_if_abandoned(path: str, mode: int, remove: Callable[[str], object]) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, mode | getattr(os, "O_NOFOLLOW", 0))
        try:
            if _lock(descriptor):
                remove(path)
        finally:
            os.close(descriptor)


def _put_back(folder: str) -> None:
    """Give what was kept aside its name back, unless something else has taken it."""
    for kept in Path(folder).iterdir():
        target = Path(folder).with_name(kept.name)
        if not os.path.lexists(target):
            os.rename(kept, target)
    _remove_kept(Path(folder))


def _remove_kept(folder: Path) -> None:
    """Remove a folder with what is no longer wanted; half of it is never put back."""
    with contextlib.suppress(OSError):
        gone = folder.with_name(temporary_name(folder.name))
        os.rename(folder, gone)
        shutil.rmtree(gone)


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
