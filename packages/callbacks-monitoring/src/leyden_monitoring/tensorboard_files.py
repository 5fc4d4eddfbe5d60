"""TensorBoard's event files as a resumed run needs them: as long as they were when the checkpoint was made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from leyden.loggers.folder import FolderLogger

__all__ = ["event_file_sizes", "set_superseded_aside"]

_MARK = "tfevents"  # TensorBoard reads every file that has it in its name, and takes its folder for a run


def event_file_sizes(folder: str) -> dict[str, int]:
    """Return the bytes of each event file of a run, by its path from `folder` on; sub-folders are runs of dicts."""
    return {name: entry.stat().st_size for name, entry in _event_files(folder)}


def set_superseded_aside(folder: str, sizes: Mapping[str, int]) -> None:
    """Cut each event file to what `sizes` says, and move what comes after it and files not named to others beside them.

    An event file is only ever added to, so that its beginning is what it was. Nothing is deleted: the ends are in
    files called ``superseded-N.…``.
    """
    for name, entry in list(_event_files(folder)):
        path, size = Path(entry), sizes.get(name, 0)
        if size == 0:
            path.rename(_aside(path))
        elif entry.stat().st_size > size:
            with path.open("rb") as file:
                file.seek(size)
                _aside(path).write_bytes(file.read())
            os.truncate(path, size)


def _event_files(folder: str, within: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield each file with its path from `folder` on."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:  # nothing was written yet
        return
    for entry in entries:
        if _MARK in entry.name:
            yield within + entry.name, entry
        elif entry.is_dir() and not os.path.exists(os.path.join(entry.path, FolderLogger.HPARAMS_FILE)):
            # One that has hyperparameters is that of another logger, with a sub_dir.
            yield from _event_files(entry.path, f"{within}{entry.name}/")


def _aside(path: Path) -> Path:
    name = path.name.replace(f"{_MARK}.", "").replace(_MARK, "")
    number = 0
    while (aside := path.with_name(f"superseded-{number}.{name}")).exists():
        number += 1
    return aside
