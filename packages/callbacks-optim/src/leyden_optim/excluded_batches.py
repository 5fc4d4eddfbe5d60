"""The file that names batches which are not to be trained on: read as a run begins, replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from leyden.arguments import is_count
from leyden.data.loaders import is_collection
from leyden.errors import MisconfigurationException
from leyden.state.temporaries import make_temporary, remove_abandoned
from leyden.state.writing import flush_folder, make_folder

__all__ = ["Entry", "add_batches", "batches_of_epoch", "is_same_each_epoch", "read_batches"]

Entry = int | dict[str, Any]
"""``{"epoch": 3, "batch": 17}``, with whatever else; without an epoch, or as a bare number, a batch of each epoch."""


def read_batches(path: Path) -> list[Entry]:
    """Return the entries of a file, none where there is no file.

    Raises:
        MisconfigurationException: it holds something else.
    """
    try:
        entries = json.loads(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise _of_another_kind(path, str(error)) from error
    if not isinstance(entries, list):
        raise _of_another_kind(path, f"it holds {entries!r:.80}")
    for entry in entries:
        if not is_count(entry) and not (
            isinstance(entry, dict)
            and is_count(entry.get("batch"))
            and (entry.get("epoch") is None or is_count(entry["epoch"]))
        ):
            raise _of_another_kind(path, f"it holds {entry!r:.80}")
    return entries


def batches_of_epoch(entries: Iterable[Entry], epoch: int) -> frozenset[int]:
    """Return the indices of an epoch's batches that entries name.

    Example:
        >>> sorted(batches_of_epoch([{"epoch": 0, "batch": 4}, {"epoch": None, "batch": 7}, 9], epoch=1))
        [7, 9]
    """
    pairs = [(None, entry) if isinstance(entry, int) else (entry.get("epoch"), entry["batch"]) for entry in entries]
    return frozenset(batch for of_epoch, batch in pairs if of_epoch in (None, epoch))


def is_same_each_epoch(loader: object) -> bool:
    """Whether a loader is known to give the same batches in each epoch, as a list does, or one that does not shuffle.

    Example:
        >>> dataset = range(8)
        >>> is_same_each_epoch(DataLoader(dataset)), is_same_each_epoch(DataLoader(dataset, shuffle=True))
        (True, False)
    """
    if isinstance(loader, list | tuple):
        return not is_collection(loader)
    return (
        isinstance(loader, DataLoader)
        and type(loader.sampler) is SequentialSampler
        and type(loader.batch_sampler) in (BatchSampler, type(None))
    )


def add_batches(path: Path, entries: Sequence[Entry]) -> None:
    """Add entries to the file, which holds all of them, flushed to the disk, or what it held before.

    Raises:
        OSError: the folder or disk refused.
    """
    make_folder(path.parent)
    remove_abandoned(path.parent)
    lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in [*read_batches(path), *entries])
    descriptor, temporary = make_temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"[\n{lines}\n]\n".encode())
            file.flush()
            os.fsync(descriptor)
            os.replace(temporary, path)  # while the lock says who writes it
        flush_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _of_another_kind(path: Path, seen: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"exclude_batches_path={str(path)!r} is no list of batches ({seen}); expected JSON such as "
        '[{"epoch": 3, "batch": 17}]. Name another file, or mend or remove this one.'
    )
