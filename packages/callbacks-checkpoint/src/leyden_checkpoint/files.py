"""Files as checkpoints need them, at paths and at URLs: look, and remove what is no longer wanted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leyden.errors import MisconfigurationException
from leyden.state import remote
from leyden.state.placing import remove_folder
from leyden.state.remote import is_url, local_path
from leyden.state.storage import exists as storage_exists

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = [
    "absolute",
    "check_shared",
    "exists",
    "is_newer",
    "is_url",
    "join",
    "name_in",
    "remove",
    "url_problem",
    "without_slashes",
    "write_text",
]


def absolute(folder: str | os.PathLike[str]) -> str:
    """Return `folder` as an absolute path with ``~`` expanded: what a run wrote is found again from anywhere.

    A URL stays as it is; one of ``file://`` becomes a path.
    """
    local = local_path(folder)
    return os.fspath(folder).rstrip("/") if local is None else os.path.abspath(os.path.expanduser(local))


def url_problem(folder: str) -> str:
    """Return why nothing can be written to a URL like this; nothing where it can, or where it is a path."""
    if not is_url(folder):
        return ""
    import fsspec  # type: ignore[import-untyped]

    try:
        fsspec.get_filesystem_class(folder.split("://", 1)[0])
    except (ImportError, ValueError) as error:
        return str(error)
    return ""


def check_shared(callback: Any, trainer: Trainer) -> None:
    """Refuse a URL as the folder of checkpoints that several processes write.

    Raises:
        MisconfigurationException: naming the callback and its `dirpath`.
    """
    if trainer.strategy.state_dict_type == "sharded" and is_url(callback.dirpath or ""):
        raise MisconfigurationException(
            f"{type(callback).__name__}(dirpath={callback.dirpath!r}) is a URL, and a checkpoint that several "
            "processes write needs a folder that they share. Give a path, or keep one file: "
            "FSDPStrategy(state_dict_type='full')."
        )


def join(folder: str, name: str) -> str:
    """Return the path, or URL, of `name` in `folder`."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else os.path.join(folder, name)


def name_in(path: str) -> str:
    """Return the last part of a path or URL."""
    return path.rpartition("/")[2] if is_url(path) else os.path.basename(path)


def without_slashes(text: str) -> str:
    """Return `text` as part of a file's name, which makes no folder."""
    return text.replace("/", "_").replace("\\", "_")


def exists(path: str) -> bool:
    """Whether there is something under this name, be it a link that leads nowhere."""
    return storage_exists(path) if is_url(path) else os.path.lexists(path)


def is_newer(path: str, than: str) -> bool:
    """Whether `path` is the file `than`, leads to it, or was written after it."""
    here, there = local_path(path), local_path(than)
    with contextlib.suppress(OSError):
        if here is not None and there is not None and os.path.samefile(here, there):
            return True
    return path == than or _written_at(path) > _written_at(than)


def _written_at(path: str) -> float:
    local = local_path(path)
    if local is None:
        return remote.written_at(path)
    with contextlib.suppress(OSError):
        return os.lstat(local).st_mtime_ns / 1e9
    return 0.0


def remove(path: str) -> None:
    """Remove a checkpoint, a file or a link; one that is gone already is no error.

    A folder is an error, unless it is a checkpoint that several processes wrote: no run wrote it.
    """
    if is_url(path):
        _remove_url(path)
    elif os.path.isdir(path) and not os.path.islink(path):
        remove_folder(Path(path))
    else:
        Path(path).unlink(missing_ok=True)


def write_text(path: str, text: str) -> None:
    """Write a small text file; the folder is made when missing."""
    if is_url(path):
        system, key = _system_of(path)
        system.makedirs(key.rpartition("/")[0] or "/", exist_ok=True)
        system.pipe_file(key, text.encode())
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _remove_url(url: str) -> None:
    try:
        system, key = _system_of(url)
        if system.exists(key):
            system.rm(key)
    except FileNotFoundError:
        return
    except Exception as error:  # each store has its own kinds of errors
        raise OSError(f"{url!r} cannot be removed ({type(error).__name__}: {error})") from error


def _system_of(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    system, key = url_to_fs(url)
    return system, str(key)
