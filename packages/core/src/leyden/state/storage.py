"""Checkpoints that are whole or absent: atomic writes and checked, safe reads, of files and URLs."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from functools import partial
from pathlib import Path, PurePath
from typing import IO, Any

import torch

from leyden.errors import MisconfigurationException
from leyden.state import remote
from leyden.state.folders import copy_folder, load_folder, verify_folder, write_folder
from leyden.state.integrity import ARCHIVE_START, check_archive, pickle_of
from leyden.state.lightning_types import lightning_types
from leyden.state.pickles import check_old_file, check_pickle
from leyden.state.placing import is_sharded
from leyden.state.plain import SAFE_TYPES
from leyden.state.shares import Shares
from leyden.state.temporaries import remove_abandoned
from leyden.state.writing import CheckpointWriteError, link_file, write_file

__all__ = ["CheckpointWriteError", "exists", "link", "load", "save", "tidy", "verify"]

# Python 3.13 alone says pathlib._local.PosixPath: a file from one Python is to be read by the others.
_PATHS_BY_OTHER_NAMES = [
    (kind, f"{module}.{kind.__name__}")
    for kind in SAFE_TYPES
    if issubclass(kind, PurePath)
    for module in ("pathlib", "pathlib._local")
]


def save(obj: Any, path: str | os.PathLike[str], copy_of: str | os.PathLike[str] | None = None) -> None:
    """Write `obj` with ``torch.save`` so that `path` holds either all of it or what it held before.

    The folder is made when missing. The bytes go, as they are made, to a temporary file beside the target, which is
    flushed to the disk and renamed; the folder is flushed too, so that the name survives a power cut. Temporary files
    that a killed process left in the folder are removed. A link at `path` is replaced, not what it leads to.

    Where `obj` is one process's part of a checkpoint that several write, `Shares`, all call this, and `path` becomes a
    folder, with everything in it at once.

    `path` may be a URL that fsspec knows, such as ``s3://bucket/run/a.ckpt``. Where `obj` has just been saved to a
    file, `copy_of` names it, and its bytes are copied.

    Raises:
        CheckpointWriteError: the folder or disk refused the write, an `OSError`; the temporary file is gone and the old
            file untouched. It says how many bytes are needed and how many are free.
    """
    local = remote.local_path(path)
    if isinstance(obj, Shares):
        _save_shares(obj, path, None if copy_of is None else Path(copy_of))
    elif local is None:
        remote.write_url(obj, os.fspath(path))
    else:
        source = None if copy_of is None else remote.local_path(copy_of)
        write_file(obj, Path(local), None if source is None else Path(source))


def _save_shares(shares: Shares, path: str | os.PathLike[str], copy_of: Path | None) -> None:
    local = remote.local_path(path)
    if local is None:
        raise MisconfigurationException(
            f"{str(path)!r} is a URL, and a checkpoint that several processes write needs a folder that they share. "
            "Save to a path, or to one file: FSDPStrategy(state_dict_type='full')."
        )
    if copy_of is None:
        write_folder(shares, Path(local))
    elif shares.plain is not None:  # all have written it
        copy_folder(copy_of, Path(local))


def link(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Make `path` a link to the checkpoint `source`, in one step; it is relative, so that the folder can be moved.

    Raises:
        OSError: there are no links, as at a URL; what was at `path` is untouched.
    """
    local = [remote.local_path(each) for each in (source, path)]
    if local[0] is None or local[1] is None:
        raise OSError(f"{os.fspath(path)!r} cannot be a link.")
    link_file(Path(local[0]), Path(local[1]))


def tidy(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files that killed runs left in the folder; `save` does so too. It raises nothing.

    At a URL nothing tells a killed writer from a slow one: there they go a day after the last byte.
    """
    local = remote.local_path(folder)
    if local is None:
        remote.remove_abandoned(os.fspath(folder))
    else:
        remove_abandoned(Path(local))


def load(
    path: str | os.PathLike[str] | IO[bytes], map_location: Any = None, weights_only: bool = True, unread: str = ""
) -> Any:
    """Read what `save`, or ``torch.save``, wrote, after comparing all of it with its checksums.

    Tensors of a checkpoint in a folder, which several processes wrote, are read whole; those under the key `unread`
    stay on "meta" until `folders.read_parts`.

    Nothing in the file is executed unless `weights_only` is False. An open file is read from its beginning.

    Raises:
        FileNotFoundError: there is no such file.
        MisconfigurationException: a folder, a file that is not whole, or one that only ``weights_only=False``
            could load.
    """
    if isinstance(path, str | os.PathLike):
        if (folder := _sharded(path)) is not None:
            return load_folder(folder, partial(_load_part, folder, weights_only), map_location, unread)
        with _opened(path) as file:
            return _load(file, path, map_location, weights_only)
    return _load(path, str(getattr(path, "name", path)), map_location, weights_only)


def _load(file: IO[bytes], path: str | os.PathLike[str], map_location: Any, weights_only: bool) -> Any:
    file.seek(0)
    archive = _check(file, path)
    try:
        if weights_only:
            _follow(file, archive)
        with torch.serialization.safe_globals(
            [_NO_BYTES, *SAFE_TYPES, *_PATHS_BY_OTHER_NAMES, *_numpy_types(), *lightning_types()]
        ):
            return torch.load(file, map_location=map_location, weights_only=weights_only)
    except Exception as error:  # bytes that are no checkpoint make torch.load fail in any way there is
        raise _refused(path, error, weights_only) from error


def verify(path: str | os.PathLike[str]) -> None:
    """Read all of a checkpoint and compare it with its checksums; nothing is kept and nothing executed.

    Files of before torch 1.6 have no checksums: they are loaded, safely, to see that they can be.

    Raises:
        FileNotFoundError: there is no such file.
        MisconfigurationException: it is not whole; the message says why.
    """
    if (folder := _sharded(path)) is not None:
        verify_folder(folder, partial(_load_part, folder, True))
        return
    with _opened(path) as file:
        if not _check(file, path):
            load(path, map_location="cpu")


def _load_part(folder: Path, weights_only: bool, file: IO[bytes], map_location: Any) -> Any:
    return _load(file, folder, map_location, weights_only)


def _sharded(path: str | os.PathLike[str]) -> Path | None:
    local = remote.local_path(path)
    if local is not None and not os.path.lexists(local):
        remove_abandoned(Path(local).parent)  # which puts back what a killed run had kept aside
    return Path(local) if local is not None and is_sharded(local) else None


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is something at this path or URL."""
    local = remote.local_path(path)
    return remote.exists(os.fspath(path)) if local is None else os.path.exists(local)


def _opened(path: str | os.PathLike[str]) -> IO[bytes]:
    """The one file that is checked and then loaded, whatever takes its name meanwhile."""
    local = remote.local_path(path)
    if local is None:
        if remote.is_folder(os.fspath(path)):
            raise _folder(path)
        return remote.local_copy(os.fspath(path))
    source = Path(local)
    if source.is_dir():
        raise _folder(path)
    if not source.exists():
        found = source.parent.glob("*.ckpt") if source.parent.is_dir() else ()
        near = sorted(str(file) for file in found if file.exists())[:5]
        hint = f" In that folder there are: {', '.join(near)}." if near else ""
        what = (
            f"it is a link to {os.readlink(source)!r}, which is gone"
            if source.is_symlink()
            else "there is no such file"
        )
        raise FileNotFoundError(f"ckpt_path={str(path)!r}: {what}.{hint}")
    if not source.is_file():  # reading a pipe or a device may never end
        raise MisconfigurationException(f"ckpt_path={str(path)!r} is a pipe or a device; expected a checkpoint file.")
    return source.open("rb")


def _folder(path: str | os.PathLike[str]) -> MisconfigurationException:
    return MisconfigurationException(
        f"ckpt_path={str(path)!r} is a folder; expected a checkpoint, which is a file, or a folder with a run.pt. Name "
        "the one inside it."
    )


def _check(file: IO[bytes], path: str | os.PathLike[str]) -> bool:
    """Compare an archive with its checksums; False for another kind of file, of which only loading it tells."""
    archive = file.read(len(ARCHIVE_START)) == ARCHIVE_START
    if archive:
        try:
            check_archive(file)
        except zipfile.BadZipFile as error:
            raise _unreadable(path, error) from error
    file.seek(0)
    return archive


def _follow(file: IO[bytes], archive: bool) -> None:
    """Refuse pickles that would hang, crash or eat memory, before torch reads them."""
    if archive:
        check_pickle(pickle_of(file))
    else:
        check_old_file(file, file.seek(0, os.SEEK_END))
    file.seek(0)


def _refused(path: str | os.PathLike[str], error: Exception, weights_only: bool) -> MisconfigurationException:
    by_safety = isinstance(error, pickle.UnpicklingError) and weights_only
    if not by_safety or ("Unsupported" not in str(error) and "weights_only" not in str(error)):
        return _unreadable(path, error)
    unknown = re.search(r"Unsupported operand (\d+)", str(error))
    if unknown and not _is_pickle_code(int(unknown[1])):  # trusting its author would be no help
        return _unreadable(path, pickle.UnpicklingError(f"{unknown[0]}, which no pickle has"))
    refused = re.search(r"GLOBAL (\S+)", str(error))
    what = f"{refused[1]}, which a safe load refuses" if refused else "objects that a safe load refuses"
    return MisconfigurationException(
        f"{str(path)!r} holds {what}. Loading it would run code the file brings: only when you trust its author, "
        "pass weights_only=False."
    )


def _is_pickle_code(code: int) -> bool:
    import pickletools  # with 6 ms, for an error alone

    return any(code == ord(known.code) for known in pickletools.opcodes)


def _empty_bytes() -> bytes:
    """An empty bytes object is written as a call of `bytes`, which with a number would take that much memory."""
    return b""


_NO_BYTES = (_empty_bytes, "builtins.bytes")


def _numpy_types() -> list[Any]:
    """What NumPy arrays and scalars are rebuilt with; they are read only where NumPy is installed."""
    try:
        import numpy
        from numpy._core.multiarray import _reconstruct, scalar
    except ImportError:
        return []
    dtypes = [getattr(numpy.dtypes, name) for name in numpy.dtypes.__all__]
    return [_reconstruct, scalar, numpy.ndarray, numpy.dtype, *dtypes]


def _unreadable(path: str | os.PathLike[str], error: Exception) -> MisconfigurationException:
    return MisconfigurationException(
        f"{str(path)!r} is no whole checkpoint ({type(error).__name__}: {_first_line(error)}). It may be cut short or "
        "of another kind; use an earlier checkpoint."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
