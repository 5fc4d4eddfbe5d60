"""The file system as checkpoints need it: look, link, and remove what is no longer wanted."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

__all__ = ["absolute", "exists", "join", "link", "remove", "without_slashes", "write_text"]


def absolute(folder: str | os.PathLike[str]) -> str:
    """Return `folder` as an absolute path with ``~`` expanded: what a run wrote is found again from anywhere."""
    return os.path.abspath(os.path.expanduser(os.fspath(folder)))


def join(folder: str, name: str) -> str:
    """Return the path of `name` in `folder`."""
    return os.path.join(folder, name)


def without_slashes(text: str) -> str:
    """Return `text` as part of a file's name, which makes no folder."""
    return text.replace("/", "_").replace("\\", "_")


def exists(path: str) -> bool:
    """Whether there is something under this name, be it a link that leads nowhere."""
    return os.path.lexists(path)


def link(target: str, path: str) -> None:
    """Make `path` a link to the checkpoint `target`, in one step, in place of whatever was there.

    The link is relative, so that the folder can be moved. Where the file system has no links, `path` becomes a copy.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)  # a folder cannot be replaced by a rename
    with tempfile.TemporaryDirectory(prefix=f".{os.path.basename(path)}.", suffix=".tmp", dir=folder) as temporary:
        made = os.path.join(temporary, "link")
        try:
            os.symlink(os.path.relpath(target, folder), made)
        except OSError:
            if os.path.isdir(target):
                shutil.copytree(target, made)
            else:
                shutil.copy2(target, made)
        os.replace(made, path)


def remove(path: str) -> None:
    """Remove a checkpoint, which may be a file, a link or a folder; one that is gone already is no error."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)


def write_text(path: str, text: str) -> None:
    """Write a small text file; the folder is made when missing."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
