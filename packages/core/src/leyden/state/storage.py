"""Files that are whole or absent: atomic writes and safe reads of checkpoints."""

from __future__ import annotations

import os
import pickle
import re
import tempfile
from pathlib import Path, PurePath
from typing import Any

import torch

from leyden.errors import MisconfigurationException
from leyden.state.plain import SAFE_TYPES

__all__ = ["load", "save"]

# Python 3.13 alone says pathlib._local.PosixPath: a file from one Python is to be read by the others.
_PATHS_BY_OTHER_NAMES = [
    (kind, f"{module}.{kind.__name__}")
    for kind in SAFE_TYPES
    if issubclass(kind, PurePath)
    for module in ("pathlib", "pathlib._local")
]


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write `obj` with ``torch.save`` so that `path` holds either all of it or what it held before.

    The folder is made when missing. The bytes go to a temporary file beside the target, which is flushed to the disk
    and renamed; the folder is flushed too, so that the name survives a power cut.

    Raises:
        OSError: the folder or disk refused the write; the temporary file is gone and the old file untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:50]}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a checkpoint gets the rights any new file of this user would.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _flush_folder(target.parent)


def load(path: str | os.PathLike[str], map_location: Any = None, weights_only: bool = True) -> Any:
    """Read what `save`, or ``torch.save``, wrote. Nothing in the file is executed unless `weights_only` is False.

    Raises:
        FileNotFoundError: there is no such file.
        MisconfigurationException: a folder, an unreadable file, or one that only ``weights_only=False`` could load.
    """
    source = Path(path)
    if source.is_dir():
        raise MisconfigurationException(
            f"ckpt_path={str(path)!r} is a folder; expected a checkpoint file. Name the file inside it."
        )
    if not source.exists():
        near = sorted(str(file) for file in source.parent.glob("*.ckpt"))[:5] if source.parent.is_dir() else []
        hint = f" In that folder there are: {', '.join(near)}." if near else ""
        raise FileNotFoundError(f"ckpt_path={str(path)!r}: there is no such file.{hint}")
    try:
        # An empty bytes object is written as a call of `bytes`.
        with torch.serialization.safe_globals([bytes, *SAFE_TYPES, *_PATHS_BY_OTHER_NAMES, *_numpy_types()]):
            return torch.load(source, map_location=map_location, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        if not weights_only or ("Unsupported" not in str(error) and "weights_only" not in str(error)):
            raise _unreadable(path, error) from error
        refused = re.search(r"GLOBAL (\S+)", str(error))
        what = f"{refused[1]}, which a safe load refuses" if refused else "objects that a safe load refuses"
        raise MisconfigurationException(
            f"{str(path)!r} holds {what}. Loading it would run code the file brings: only when you trust its author, "
            "pass weights_only=False."
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # bytes that are no checkpoint make torch.load fail in any way there is
        raise _unreadable(path, error) from error


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


def _flush_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # some systems cannot open a folder; the rename itself is done
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
