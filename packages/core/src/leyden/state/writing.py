"""Writing an object as a stream, so that its target holds all of it or what it held before."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from leyden.state.placing import check_target, put_in_place
from leyden.state.temporaries import make_temporary, remove_abandoned, temporary_name

__all__ = [
    "CheckpointWriteError",
    "Stream",
    "bytes_free",
    "flush_folder",
    "link_file",
    "make_folder",
    "stream",
    "write_file",
]

_SMALL_BYTES = 2**16  # torch.save writes headers and padding in some hundred pieces, each a system call


class CheckpointWriteError(OSError):
    """A checkpoint could not be written: its path, the bytes it needs and those that are free. Nothing was replaced.

    `errno` and `filename` are those of the system's error.

    Example:
        >>> from leyden.state import storage
        >>> try:
        ...     storage.save({"weight": torch.zeros(3)}, "/dev/null/a.ckpt")
        ... except storage.CheckpointWriteError as error:
        ...     error.filename
        '/dev/null/a.ckpt'
    """

    def __str__(self) -> str:
        return f"[Errno {self.errno}] cannot write {self.filename!r} {self.strerror}"


class Stream:
    """What ``torch.save`` writes into: bytes are counted and go on to `write`, small pieces together.

    Large pieces, which tensors are, are not copied. After the first error the rest is only counted: so the error can
    say how many bytes are needed, and no exception passes through the C++ writer, which would replace it by its own.
    """

    def __init__(self, write: Callable[[memoryview], object] | None) -> None:
        self.bytes = 0
        self.error: Exception | None = None
        self._write = write
        self._small = bytearray()

    def write(self, data: Any) -> int:
        """Pass on bytes; it never raises an `Exception`."""
        count: int = data.nbytes if type(data) is memoryview else memoryview(data).nbytes
        self.bytes += count
        if count < _SMALL_BYTES:
            self._small += data
            if len(self._small) >= _SMALL_BYTES:
                self.flush()
        else:
            self.flush()
            self._pass_on(memoryview(data).cast("B"))
        return count

    def flush(self) -> None:
        """Pass on what is held back."""
        small, self._small = self._small, bytearray()
        if small:
            self._pass_on(memoryview(small))

    def _pass_on(self, view: memoryview) -> None:
        if self._write is not None:
            try:
                self._write(view)
            except Exception as error:
                self.error, self._write = error, None


def stream(obj: Any, write: Callable[[memoryview], object] | None) -> Stream:
    """Serialise `obj` into `write`, with checksums whatever the process has set, and return how that went."""
    into = Stream(write)
    with_checksums = torch.serialization.get_crc32_options()
    if not with_checksums:
        torch.serialization.set_crc32_options(True)
    try:
        torch.save(obj, into)  # type: ignore[arg-type]  # all that it calls is write and flush
        into.flush()
    except RuntimeError as error:
        cut = error.__context__
        if cut is None or isinstance(cut, Exception):
            raise
        raise cut from None  # Ctrl-C: closing the C++ writer that it cut short raises an error in its place
    finally:
        if not with_checksums:
            torch.serialization.set_crc32_options(False)
    return into


def write_file(obj: Any, target: Path, copy_of: Path | None = None) -> None:
    """Write `obj` to a temporary file beside `target`, flush it to the disk, rename it, and flush the folder.

    `copy_of` is a file of the same `obj`, which is copied: of a small model pickling is most of a save.

    Raises:
        CheckpointWriteError: the folder or disk refused; the temporary file is gone and the old file untouched.
    """
    folder = target.parent
    try:
        make_folder(folder)
        check_target(target)
        remove_abandoned(folder)
        descriptor, temporary = make_temporary(target)
    except OSError as error:
        raise write_error(target, error, _bytes_needed(obj), bytes_free(folder)) from error
    needed: int | None = None
    try:
        try:
            write = partial(_write_all, descriptor)
            written = _copied(copy_of, write) or stream(obj, write)
            needed = written.bytes
            if written.error is not None:
                raise written.error
            os.fsync(descriptor)
            put_in_place(temporary, target)
        finally:
            with contextlib.suppress(OSError):  # the bytes are flushed, or another error says why not
                os.close(descriptor)
    except BaseException as error:
        free = bytes_free(folder)  # before the part that was written is removed: what the save had is not free for it
        size = _size(temporary)
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and needed is not None:
            raise write_error(target, error, needed, None if free is None else free + size) from error
        raise
    flush_folder(folder)


def link_file(source: Path, target: Path) -> None:
    """Make `target` a relative link to `source`, in one step, in place of the file that was there.

    Raises:
        OSError: the system refused, or has no links; what was there is untouched.
    """
    make_folder(target.parent)
    remove_abandoned(target.parent)
    while True:
        made = target.with_name(temporary_name(target.name))
        os.symlink(os.path.relpath(source, target.parent), made)
        try:
            put_in_place(made, target)
            break
        except FileNotFoundError:  # a link cannot be locked: another save took it for abandoned
            continue
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
    flush_folder(target.parent)


def _copied(source: Path | None, write: Callable[[memoryview], object]) -> Stream | None:
    """Copy `source` into `write`; None where there is nothing that could be copied."""
    try:
        file = None if source is None else source.open("rb", buffering=0)
    except OSError:
        file = None
    if file is None:
        return None
    into, piece = Stream(write), memoryview(bytearray(_SMALL_BYTES))  # so small that it comes from the heap
    with file:
        while into.error is None and (count := file.readinto(piece)):
            into.write(piece[:count])
        into.flush()
        into.bytes = os.fstat(file.fileno()).st_size  # what it takes, also where the disk was full before
    return into


def write_error(
    path: str | os.PathLike[str], error: Exception, needed: int | None, free: int | None
) -> CheckpointWriteError:
    """Return the error for a save to `path` that failed by `error`."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    room = (
        f"it needs {_amount(needed)}, free there: {_amount(free)}. What was there before is untouched. Make room, or "
        "save to a folder that can be written."
    )
    code = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    return CheckpointWriteError(code, f"({why}): {room}", os.fspath(path))


def _amount(count: int | None) -> str:
    return "an unknown number of bytes" if count is None else f"{count:,} bytes ({count / 2**30:.2f} GiB)"


def _write_all(descriptor: int, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:  # a disk that becomes full takes a part first
        done += os.write(descriptor, view[done:])


def _bytes_needed(obj: Any) -> int | None:
    try:
        return stream(obj, None).bytes
    except Exception:  # what cannot be pickled is not what stopped this save
        return None


def bytes_free(folder: Path) -> int | None:
    """What a process of this user may still write; folders that do not exist yet would be in the nearest above."""
    for place in (folder, *folder.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def make_folder(folder: Path) -> None:
    """Make the folder and those above it where they are missing, so that their names survive a power cut too."""
    if not folder.is_dir():
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for place in missing:
            flush_folder(place.parent)


def flush_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system can flush folders; the rename itself is done."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
