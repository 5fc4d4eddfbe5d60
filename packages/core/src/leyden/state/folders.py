"""Checkpoints in folders: each process writes its share beside the others', and all of it appears at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException
from leyden.runtime.shards import empty_like_part
from leyden.state.integrity import check_archive
from leyden.state.placing import MARK, check_target, put_in_place
from leyden.state.shares import PLACES, Shares, filled
from leyden.state.temporaries import make_temporary_folder, remove_abandoned
from leyden.state.writing import bytes_free, flush_folder, make_folder, write_error, write_file

__all__ = ["copy_folder", "load_folder", "read_parts", "verify_folder", "write_folder"]

_TABLE = "shared_table"


def write_folder(shares: Shares, target: Path) -> None:
    """Write what all processes have of a checkpoint; each calls this, and it fails in all or in none.

    The parts go to a temporary folder beside `target`, each flushed to the disk by who wrote it; then the first process
    writes the plain part, and the folder takes its name.

    Raises:
        CheckpointWriteError: a process could not write; what was at `target` is untouched.
    """
    before = None if shares.after is None else shares.after()
    if before is not None:
        before.wait()
    try:
        _write_folder(shares, target)
    except OSError as error:
        needed = sum(tensor.nbytes for tensor in shares.tensors.values())
        raise write_error(target, error, needed, bytes_free(target.parent)) from error
    finally:
        shares.over.set()


def _write_folder(shares: Shares, target: Path) -> None:
    from leyden.state.shard_files import write_tensors

    descriptor, temporary = -1, target
    with contextlib.ExitStack() as undo:

        def begin() -> str:
            nonlocal descriptor, temporary
            make_folder(target.parent)
            check_target(target)
            remove_abandoned(target.parent)
            descriptor, temporary = make_temporary_folder(target)
            undo.callback(shutil.rmtree, temporary, ignore_errors=True)
            undo.callback(os.close, descriptor)
            return str(temporary)

        temporary = Path(_by_first(shares, begin))
        table = write_tensors(shares.tensors, temporary, shares.group)

        def end() -> str:
            assert shares.plain is not None
            write_file({**shares.plain, _TABLE: table}, temporary / MARK)
            put_in_place(temporary, target)
            flush_folder(target.parent)
            return ""

        _by_first(shares, end)


def _by_first(shares: Shares, call: Callable[[], str]) -> str:
    """Return what the first process's call gives, or raise what it raised there, in all."""
    told: list[Any] = ["", None]
    error: Exception | None = None
    if shares.plain is not None:
        try:
            told[0] = call()
        except Exception as problem:
            error = problem
            code = getattr(problem, "errno", None)
            told[1] = (isinstance(problem, OSError), code, f"{type(problem).__name__}: {problem}")
    torch.distributed.broadcast_object_list(told, group=shares.group, group_src=0)
    if error is not None:
        raise error
    if told[1] is not None:
        of_disk, code, text = told[1]
        text = f"the first process could not write: {text}"
        raise OSError(code or 5, text) if of_disk else RuntimeError(text)
    return str(told[0])


def copy_folder(source: Path, target: Path) -> None:
    """Make `target` another name for the files of `source`, or a copy where there are no links; it is whole at once."""
    make_folder(target.parent)
    descriptor, temporary = make_temporary_folder(target)
    try:
        for file in sorted(source.iterdir(), key=lambda one: one.name == MARK):
            try:
                os.link(file, temporary / file.name)
            except OSError:
                shutil.copyfile(file, temporary / file.name)
        flush_folder(temporary)
        put_in_place(temporary, target)
        flush_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def load_folder(
    path: Path, load: Callable[[IO[bytes], Any], Any], map_location: Any, unread: str = ""
) -> dict[str, Any]:
    """Return the checkpoint in a folder, with whole tensors; `load` reads a file safely and after its checksums.

    On "meta" no tensor is read. What is under the key `unread` is on "meta" too, for `read_parts`.
    """
    plain, table = _plain_part(path, lambda file: load(file, map_location))
    if str(map_location) == "meta":
        return filled(plain, {name: _empty(one, "meta") for name, one in table.items()})
    from leyden.state.shard_files import read_tensors

    elsewhere = {name for way, name in plain[PLACES] if unread not in way}
    later = {name: _Unread(path, name, one, load) for name, one in table.items() if unread and name not in elsewhere}
    tensors = {name: _empty(one, "cpu") for name, one in table.items() if name not in later}
    read_tensors(tensors, table, path, lambda file: load(file, "cpu"))
    if isinstance(map_location, str | torch.device):
        tensors = {name: tensor.to(map_location) for name, tensor in tensors.items()}
    return filled(plain, {**tensors, **{name: one.marked() for name, one in later.items()}})


@dataclass(slots=True)
class _Unread:
    """Where a tensor is that has not been read."""

    folder: Path
    name: str
    about: dict[str, Any]
    load: Callable[[IO[bytes], Any], Any]

    def marked(self) -> Tensor:
        tensor: Any = _empty(self.about, "meta")
        tensor.unread = self
        return tensor  # type: ignore[no-any-return]


def read_parts(optimizer: Optimizer, state: Any) -> Any:
    """Return the state of an optimizer with what is unread in it: of each tensor the part that its parameter has."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    if not isinstance(state, dict) or not isinstance(state.get("state"), dict):
        return state
    read: dict[str, Tensor] = {}
    unread: list[_Unread] = []

    def part(index: Any, value: Any) -> Any:
        mark = getattr(value, "unread", None)
        if mark is None:
            return value
        fits = isinstance(index, int) and 0 <= index < len(parameters)
        read[mark.name] = empty_like_part(value, parameters[index]) if fits else _empty(mark.about, "cpu")
        unread.append(mark)
        return read[mark.name]

    made = {
        index: {name: part(index, value) for name, value in one.items()} if isinstance(one, dict) else one
        for index, one in state["state"].items()
    }
    if unread:
        from leyden.state.shard_files import read_tensors

        first = unread[0]
        read_tensors(read, {one.name: one.about for one in unread}, first.folder, lambda file: first.load(file, "cpu"))
    return {**state, "state": made}


def _plain_part(path: Path, load: Callable[[IO[bytes]], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    from leyden.state.shard_files import check_table

    try:
        with open(path / MARK, "rb") as file:
            plain = load(file)
        table = plain.pop(_TABLE)
        check_table(table, path)
        filled(plain, table)  # as it will be with tensors: what has no place is told of before they are read
        return plain, table
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        raise _not_whole(path, error) from error


def _empty(about: dict[str, Any], device: str) -> Tensor:
    return torch.empty(about["shape"], dtype=about["dtype"], device=device)


def verify_folder(path: Path, load: Callable[[IO[bytes], Any], Any]) -> None:
    """Compare all parts of a checkpoint with their checksums; nothing is kept.

    Raises:
        MisconfigurationException: it is not whole; the message says which part.
    """
    from leyden.state.shard_files import parts_of

    _, table = _plain_part(path, lambda file: load(file, "meta"))
    try:
        for name, part in parts_of(table, path):
            try:
                check_archive(part)
            except zipfile.BadZipFile as error:
                raise MisconfigurationException(f"{str(path)!r} is no whole checkpoint: {name}: {error}") from error
    except OSError as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> MisconfigurationException:
    return MisconfigurationException(
        f"{str(path)!r} is no whole checkpoint ({type(error).__name__}: {error}). Use an earlier checkpoint."
    )
