"""What a process does to files, an operation at a time: told in order, or ended by SIGKILL at any of them.

For programs that are run by tests: what it puts in place of the system's calls is not taken back.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

_NAMES = (
    *("chmod", "close", "copy_file_range", "fstat", "fsync", "ftruncate", "link", "mkdir", "open", "posix_fallocate"),
    *("pwrite", "remove", "rename", "replace", "rmdir", "scandir", "sendfile", "symlink", "truncate", "unlink"),
    *("utime", "write", "writev"),
)
WATCHED = [*((os, name) for name in _NAMES if hasattr(os, name)), (fcntl, "flock")]
_CHANGES = {
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"),
    *("os.utime", "mmap.__new__"),
}
"""Events that Python itself tells of, whoever asks for it."""


class Operations:
    """Counts operations and ends the process at one of them: before it, or with half of what it writes written.

    Attributes:
        told: each operation with the path it is of and a second one: where it renames to, or how many bytes it writes.
        others: what was opened for writing, or changed, by other means than those that are watched.
    """

    def __init__(self, at: int = 0, after_half: bool = False, log: int = 2) -> None:
        self.at, self.after_half, self.log, self.count = at, after_half, log, 0
        self.told: list[tuple[str, str, Any]] = []
        self.others: list[str] = []
        self._paths: dict[int, str] = {}
        self._really_write = os.write
        self._here = threading.local()
        for module, name in WATCHED:
            setattr(module, name, self._watched(name, getattr(module, name)))
        sys.addaudithook(self._hear)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count == self.at:
                self._really_write(self.log, name.encode())
                if self.after_half and name == "write":
                    self._really_write(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            self._here.inside = True
            try:
                result = call(*args, **kwargs)
            finally:
                self._here.inside = False
            self._tell(name, args, result)
            return result

        return operation

    def _tell(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self._paths[result] = os.path.abspath(args[0])
        path = self._paths.get(args[0], "") if isinstance(args[0], int) else os.path.abspath(args[0])
        second = os.path.abspath(args[1]) if name in ("rename", "replace", "link", "symlink") else result
        second = second if isinstance(second, int | str) else ""
        self.told.append((name, path, second))

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if getattr(self._here, "inside", False):
            return
        for_writing = event == "open" and isinstance(args[1], str) and not set("wax+").isdisjoint(args[1])
        if for_writing or event in _CHANGES:
            self.others.append(f"{event} {args[0] if args else ''}")


def lost_in_a_power_cut(told: list[tuple[str, str, Any]]) -> list[str]:
    """What the disk may not have yet when something else relies on it, in a power cut that undoes all it may.

    Bytes must be flushed before their file takes its name, and the names of files and folders (by a flush of the folder
    they are in) before a checkpoint is removed, and before the save returns.
    """
    lost: list[str] = []
    unflushed: set[str] = set()
    names: set[str] = set()
    for operation, path, second in told:
        if operation in ("write", "pwrite", "writev", "truncate", "ftruncate", "sendfile", "copy_file_range"):
            unflushed.add(path)
        elif operation == "fsync":
            unflushed.discard(path)
            names = {name for name in names if os.path.dirname(name) != path}
        elif operation in ("rename", "replace", "link"):
            if path in unflushed:
                lost.append(f"the bytes of {second}")
            names.add(second)
        elif operation == "mkdir":
            names.add(path)
        elif operation in ("unlink", "remove") and path.endswith(".ckpt"):
            lost += [f"the name {name} when {path} is removed" for name in sorted(names)]
    return lost + [f"the name {name}" for name in sorted(names)]
