"""Checkpoints at a URL, through fsspec, which torch brings; nothing of it is imported before a path has ``://``."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from datetime import datetime
from typing import IO, Any, cast

from leyden.errors import MisconfigurationException
from leyden.state.temporaries import is_temporary, temporary_name
from leyden.state.writing import stream, write_error

__all__ = [
    "checkpoints",
    "exists",
    "is_folder",
    "is_url",
    "local_copy",
    "local_path",
    "remove_abandoned",
    "write_url",
    "written_at",
]

_UPLOADS_ARE_ATOMIC = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "tos", "r2"}
"""Stores where an object appears when its upload ends, and where a rename would be a copy."""

_BLOCK_BYTES = 16 << 20
_ABANDONED_AFTER_S = 24 * 3600


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is for fsspec, such as ``s3://bucket/a.ckpt``."""
    return "://" in os.fspath(path)


def local_path(path: str | os.PathLike[str]) -> str | None:
    """Return the path that is meant when `path` is none of fsspec's, or a ``file://`` URL; None for other URLs."""
    name = os.fspath(path)
    if not is_url(name):
        return name
    scheme = name.split("://", 1)[0]
    return os.fspath(_key(name)[1]) if scheme in ("file", "local") else None


def exists(url: str) -> bool:
    """Whether there is something at `url`."""
    system, key = _key(url)
    return bool(system.exists(key))


def is_folder(url: str) -> bool:
    """Whether `url` is a folder, or the beginning of other objects' names."""
    system, key = _key(url)
    return bool(system.isdir(key))


def checkpoints(folder: str) -> list[tuple[str, float]]:
    """Return the URLs of all ``*.ckpt`` in and below `folder`, with the time each was written, in seconds."""
    system, key = _key(folder)
    found = system.find(key, detail=True) if system.exists(key) else {}
    above, begins = folder.rstrip("/"), key.rstrip("/") + "/"
    return [
        (f"{above}/{name.removeprefix(begins)}", _written_at(facts))
        for name, facts in found.items()
        if name.endswith(".ckpt") and name.startswith(begins)
    ]


def written_at(url: str) -> float:
    """Return when `url` was written, in seconds; 0.0 where nothing is there or the store does not say."""
    system, key = _key(url)
    try:
        return _written_at(system.info(key))
    except FileNotFoundError:
        return 0.0


def remove_abandoned(folder: str) -> None:
    """Remove temporary files that nobody has written to for a day."""
    with contextlib.suppress(Exception):  # a run must not fail by what it tidies up
        system, key = _key(folder)
        if _upload_is_atomic(system):
            return
        for facts in system.ls(key, detail=True):
            at = _written_at(facts) if is_temporary(facts["name"].rpartition("/")[2]) else 0.0
            if 0.0 < at < time.time() - _ABANDONED_AFTER_S:
                system.rm(facts["name"])


def _written_at(facts: dict[str, Any]) -> float:
    """Each store has its own word for it, and gives a number, a date, or the text of one."""
    names = ("mtime", "LastModified", "last_modified", "updated", "created")
    at = next((facts[name] for name in names if facts.get(name)), 0.0)
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    return at.timestamp() if isinstance(at, datetime) else float(at)


def write_url(obj: Any, url: str) -> None:
    """Write `obj` so that `url` holds all of it or what it held before; an upload that fails is given up unfinished.

    Raises:
        CheckpointWriteError: the store refused.
    """
    needed: int | None = None
    try:
        system, key = _key(url)
        folder, _, name = key.rpartition("/")
        at_once = _upload_is_atomic(system)
        into = key if at_once else f"{folder}/{temporary_name(name)}"
        if folder:
            system.makedirs(folder, exist_ok=True)
        if system.isdir(key):
            raise IsADirectoryError(21, "it is a folder; name a file")
        try:
            needed = _upload(obj, system, into)
            if not at_once:
                system.mv(into, key)
        except BaseException:
            if not at_once:
                with contextlib.suppress(Exception):
                    system.rm_file(into)
            raise
    except _Refused as error:
        raise write_error(url, error.reason, error.needed, None) from error.reason
    except _NotPickled as error:
        raise error.reason from None
    except Exception as error:  # each store has its own kinds of errors
        raise write_error(url, error, needed, None) from error


def local_copy(url: str) -> IO[bytes]:
    """Return what `url` holds as a nameless file in the temporary folder: read over the network once, then checked.

    Raises:
        FileNotFoundError: nothing is there.
        MisconfigurationException: the store cannot be read.
    """
    copy = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    try:
        system, key = _key(url)
        with system.open(key, "rb") as source:
            shutil.copyfileobj(source, copy, _BLOCK_BYTES)
        copy.seek(0)
    except FileNotFoundError:
        copy.close()
        raise FileNotFoundError(f"ckpt_path={url!r}: there is no such file.") from None
    except BaseException as error:
        copy.close()
        if not isinstance(error, Exception) or isinstance(error, MisconfigurationException):
            raise
        raise MisconfigurationException(
            f"{url!r} cannot be read ({type(error).__name__}: {error}). Check the address and the credentials."
        ) from error
    return cast("IO[bytes]", copy)


class _Refused(Exception):
    """The store's error, and how many bytes the object has."""

    def __init__(self, reason: Exception, needed: int) -> None:
        super().__init__(str(reason))
        self.reason, self.needed = reason, needed


class _NotPickled(Exception):
    """The object itself could not be written; no fault of the store."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _upload(obj: Any, system: Any, key: str) -> int:
    file = system.open(key, "wb")
    whole = False
    try:
        try:
            written = stream(obj, lambda view: _write_blocks(file, view))
        except Exception as error:
            raise _NotPickled(error) from error
        if written.error is not None:
            raise _Refused(written.error, written.bytes)
        try:
            file.close()
        except Exception as error:
            raise _Refused(error, written.bytes) from error
        whole = True
    finally:
        if not whole:
            _give_up(file)
    return written.bytes


def _write_blocks(file: Any, view: memoryview) -> None:
    for start in range(0, view.nbytes, _BLOCK_BYTES):  # fsspec copies what it is given at once
        file.write(view[start : start + _BLOCK_BYTES])


def _give_up(file: Any) -> None:
    """Closing it, or its collection as garbage, would make the part that was sent an object of that name."""
    with contextlib.suppress(Exception):
        file.discard()
    with contextlib.suppress(Exception):
        file.closed = True


def _upload_is_atomic(system: Any) -> bool:
    protocols = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
    return not _UPLOADS_ARE_ATOMIC.isdisjoint(protocols)


def _key(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        system, key = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise MisconfigurationException(
            f"{url!r} cannot be used: {error}. Install what fsspec needs for this kind of URL."
        ) from error
    return system, str(key)
