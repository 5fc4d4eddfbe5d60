"""Names of checkpoints, given and taken in one step: a checkpoint is a file, a link, or a folder that several write."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from pathlib import Path

from leyden.state.temporaries import keep_aside, temporary_name

__all__ = ["MARK", "check_target", "is_sharded", "put_in_place", "remove_folder"]

MARK = "run.pt"
"""The plain part of a checkpoint in a folder, which is written last: a folder without it is no checkpoint."""


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint in a folder at `path`, which may be a link to it."""
    return os.path.isfile(os.path.join(path, MARK))


def check_target(target: Path) -> None:
    """Refuse a folder that is no checkpoint as the name of one."""
    if _is_folder(target) and not is_sharded(target):
        raise IsADirectoryError(21, "it is a folder; name a file", str(target))


def put_in_place(made: Path, target: Path) -> None:
    """Give what was made the name of `target`, in one step, and remove what was there.

    Where the system cannot exchange two names, what was there is kept aside first: after a run that is killed just then
    it is put back by who saves, or looks for a checkpoint, there.

    Raises:
        OSError: there is a folder that is no checkpoint, or the system refused.
    """
    check_target(target)
    if not os.path.lexists(target) or not (_is_folder(made) or _is_folder(target)):
        os.replace(made, target)
        return
    if not _exchange(made, target):
        with keep_aside(target):
            os.rename(made, target)
    elif _is_folder(made):
        shutil.rmtree(made, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            made.unlink()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, as Linux can on most file systems; return whether it did."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # another C library
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def remove_folder(path: Path) -> None:
    """Remove a checkpoint: under its own name it is whole or not there.

    Raises:
        OSError: the folder is no checkpoint, or cannot be removed.
    """
    if not is_sharded(path):
        raise IsADirectoryError(21, "it is a folder and no checkpoint", str(path))
    aside = path.with_name(temporary_name(path.name))
    os.rename(path, aside)
    shutil.rmtree(aside)
