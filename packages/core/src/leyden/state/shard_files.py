"""Shared tensors on the disk: written and read by torch.distributed.checkpoint, but for its pickles."""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors
from torch.futures import Future

from leyden.errors import MisconfigurationException

__all__ = ["check_table", "parts_of", "read_tensors", "write_tensors"]

Table = Mapping[str, Mapping[str, Any]]
"""By name: shape, dtype, and the parts that were written, each with its place in the tensor and on the disk."""


def write_tensors(tensors: Mapping[str, Tensor], folder: Path, group: Any) -> dict[str, dict[str, Any]]:
    """Write this process's shares, together with all of `group`; return where each part is, as plain data.

    Raises:
        Exception: what failed in a process, in each of them; its own error where it was this one.
    """
    with _checksums():
        try:
            metadata: Any = save_tensors(
                dict(tensors), storage_writer=_Writer(folder, overwrite=False), process_group=group
            )
        except CheckpointException as error:
            raise _failure(error, torch.distributed.get_rank(group)) from None
    parts = {(index.fqn, tuple(index.offset or ())): info for index, info in metadata.storage_data.items()}
    return {
        name: {
            "shape": list(about.size),
            "dtype": about.properties.dtype,
            "parts": [_part(chunk, parts[name, tuple(chunk.offsets)]) for chunk in about.chunks],
        }
        for name, about in metadata.state_dict_metadata.items()
    }


class _Writer(FileSystemWriter):
    """Raises what the disk says, as that it is full, in place of what torch's C++ writer makes of it."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:  # of which other processes would get the text alone
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _part(chunk: ChunkStorageMetadata, info: Any) -> dict[str, Any]:
    return {
        "begins": list(chunk.offsets),
        "shape": list(chunk.sizes),
        "file": info.relative_path,
        "offset": int(info.offset),
        "bytes": int(info.length),
    }


@contextmanager
def _checksums() -> Iterator[None]:
    """Write tensors with their checksums, whatever the process has set."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _failure(error: Any, rank: int) -> Exception:
    """Return what failed, where it is this process's own; else what failed first, as an error of the same kind."""
    first = min(error.failures, key=lambda one: (one != rank, one))
    cause = error.failures[first][0]
    if first == rank and isinstance(cause, Exception):
        return cause
    told = f"process {first} could not write its share: {type(cause).__name__}: {cause}"
    return OSError(getattr(cause, "errno", None) or 5, told) if isinstance(cause, OSError) else RuntimeError(told)


def check_table(table: Table, folder: Path) -> None:
    """Refuse a table by which tensors would be read from elsewhere, have parts that are nowhere, or fill the memory.

    Raises:
        MisconfigurationException: what is wrong, with the tensor's name.
    """
    files = {part["file"] for about in table.values() for part in about["parts"]}
    claimed = sum(part["bytes"] for about in table.values() for part in about["parts"])
    held_by = [(folder / file).stat() for file in files if os.path.basename(file) == file]
    # Reading a pipe or a device may never end.
    if claimed > sum(one.st_size for one in held_by) or not all(stat.S_ISREG(one.st_mode) for one in held_by):
        raise MisconfigurationException(f"{str(folder)!r} is no whole checkpoint: its files are cut short.")
    for name, about in table.items():
        parts, shape = about["parts"], about["shape"]
        inside = all(
            os.path.basename(one["file"]) == one["file"]
            and all(type(number) is int for number in (*one["begins"], *one["shape"], *shape))
            and len(one["begins"]) == len(one["shape"]) == len(shape)
            and all(
                begin >= 0 and count >= 0 and begin + count <= size
                for begin, count, size in zip(one["begins"], one["shape"], shape, strict=True)
            )
            for one in parts
        )
        held = sum(math.prod(one["shape"]) for one in parts)
        room = sum(one["bytes"] for one in parts)
        if not inside or held != math.prod(shape) or held * about["dtype"].itemsize > room:
            raise MisconfigurationException(
                f"{str(folder)!r} is no whole checkpoint: the parts of {name!r} do not fit."
            )


def parts_of(table: Table, folder: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield every part that was written as an open file, with a name for messages."""
    for name, about in table.items():
        for one in about["parts"]:
            with open(folder / one["file"], "rb") as file:
                yield f"{folder / one['file']} ({name})", _Slice(file, one["offset"], one["bytes"])


def read_tensors(tensors: dict[str, Tensor], table: Table, folder: Path, load: Callable[[IO[bytes]], Tensor]) -> None:
    """Fill `tensors`, whole ones or this process's shares, with what `load` reads of the parts that they overlap.

    Raises:
        MisconfigurationException: a part is not whole.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of being one process, where others read too
        try:
            load_tensors(tensors, storage_reader=_Reader(folder, table, load), no_dist=True)
        except CheckpointException as wrapped:  # which no handler of errors would catch
            error, _ = wrapped.failures[0]
            if isinstance(error, MisconfigurationException) or not isinstance(error, Exception):
                raise error from None
            raise MisconfigurationException(
                f"{str(folder)!r} is no whole checkpoint ({type(error).__name__}: {error}). Use an earlier checkpoint."
            ) from error


class _Reader(FileSystemReader):
    """Takes the table in place of torch's pickled one, and reads each part as every file of a checkpoint is."""

    def __init__(self, folder: Path, table: Table, load: Callable[[IO[bytes]], Tensor]) -> None:
        super().__init__(folder)
        self._folder, self._table, self._load = folder, table, load

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        about, places = {}, {}
        for name, one in self._table.items():
            chunks = []
            for part in one["parts"]:
                chunks.append(ChunkStorageMetadata(torch.Size(part["begins"]), torch.Size(part["shape"])))
                places[MetadataIndex(name, part["begins"])] = part
            properties = TensorProperties(one["dtype"])
            about[name] = TensorStorageMetadata(properties, torch.Size(one["shape"]), chunks)
        return Metadata(about, storage_data=places)  # type: ignore[arg-type]

    def read_data(self, plan: Any, planner: Any) -> Future[None]:
        for item in plan.items:
            part = self.storage_data[item.storage_index]
            with open(self._folder / part["file"], "rb") as file:
                tensor = self._load(_Slice(file, part["offset"], part["bytes"]))
            if tensor.dtype != self._table[item.storage_index.fqn]["dtype"] or list(tensor.shape) != part["shape"]:
                raise ValueError(f"a part of {item.storage_index.fqn} is of another shape or dtype than it should be")
            ranges = [slice(at, at + count) for at, count in zip(item.storage_offsets, item.lengths, strict=True)]
            target = planner.resolve_tensor(item).detach()
            target.copy_(tensor[tuple(ranges)])
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


class _Slice(io.RawIOBase, IO[bytes]):
    """A part of a file, as a file."""

    def __init__(self, file: IO[bytes], offset: int, count: int) -> None:
        self._file, self._offset, self._count, self._at = file, offset, count, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._count}[whence]
        if start + offset < 0:
            raise OSError(22, "a place before the beginning of the part")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        left = max(self._count - self._at, 0)
        read = self._file.readinto(memoryview(buffer)[:left])  # type: ignore[attr-defined]
        self._at += read
        return int(read)
