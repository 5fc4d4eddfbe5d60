"""``leyden checkpoint``: looking into checkpoints without running what they hold."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leyden.cli.commands import Commands, new_command
from leyden.cli.output import one_line, plain, say, say_json, size, table
from leyden.errors import MisconfigurationException
from leyden.state import remote, storage
from leyden.state.description import describe
from leyden.state.placing import MARK, is_sharded

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add ``checkpoint show``, ``checkpoint verify`` and ``checkpoint consolidate``."""
    group = commands.add_parser("checkpoint", help="look into checkpoints", description="Look into checkpoints.")
    members = group.add_subparsers(required=True, metavar="COMMAND")
    show = new_command(
        members,
        "show",
        "Print what a checkpoint holds.",
        "Keys, shapes, sizes, callbacks, progress, versions. Nothing in the file is executed.",
        _show,
    )
    show.add_argument("file", metavar="FILE")
    verify = new_command(
        members,
        "verify",
        "Say which checkpoints are whole.",
        "They are read and compared with their checksums. Exits with 1 when one is not whole.",
        _verify,
    )
    verify.add_argument(
        "path", metavar="DIR_OR_FILE", help="a checkpoint, or a folder whose *.ckpt are all read; also URLs"
    )
    consolidate = new_command(
        members,
        "consolidate",
        "Make one file of a checkpoint that several processes wrote.",
        "All of it is read, whole, into the memory of this process, and written as any checkpoint is.",
        _consolidate,
    )
    consolidate.add_argument("folder", metavar="FOLDER", help="the folder that the processes wrote, with its run.pt")
    consolidate.add_argument(
        "-o", "--output", metavar="FILE", help="the file to write, or a URL; by default FOLDER with -whole in its name"
    )


def _show(arguments: argparse.Namespace) -> int:
    # On "meta" tensors have shapes and no values: a checkpoint larger than the memory can be looked into.
    with _no_word_of_torch():
        checkpoint = storage.load(arguments.file, map_location="meta")
    if not isinstance(checkpoint, dict):
        raise MisconfigurationException(
            f"{arguments.file!r} holds a {type(checkpoint).__name__}; expected a checkpoint, which is a dict."
        )
    described = describe(checkpoint)
    if arguments.json:
        say_json(described)
    else:
        say(_in_words(arguments.file, described))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    paths = _in_folder(arguments.path)
    if paths == []:
        raise MisconfigurationException(f"{arguments.path!r} is a folder without a *.ckpt file in or below it.")
    results = []
    for path in [arguments.path] if paths is None else paths:
        try:
            with _no_word_of_torch():
                storage.verify(path)
            results.append({"path": path, "whole": True, "problem": None})
        except (MisconfigurationException, OSError) as error:  # in a folder, one that cannot be read is not whole
            if isinstance(error, OSError) and paths is None:
                raise
            results.append({"path": path, "whole": False, "problem": one_line(error)})
    if arguments.json:
        say_json(results)
    else:
        for one in results:
            say(plain(f"whole   {one['path']}" if one["whole"] else f"broken  {one['problem']}"))
    return 0 if all(one["whole"] for one in results) else 1


def _consolidate(arguments: argparse.Namespace) -> int:
    folder = arguments.folder.rstrip("/\\")
    if not is_sharded(folder):
        what = "no such folder" if not storage.exists(folder) else "no checkpoint of several processes in it"
        if Path(folder).is_file():
            what = "one file already"
        raise MisconfigurationException(f"{folder!r}: there is {what}; expected a folder with a {MARK}.")
    named = Path(folder if Path(folder).name not in ("", "..") else os.path.abspath(folder))  # as "." has one
    output = arguments.output or str(named.with_name(f"{named.stem}-whole{named.suffix}"))
    if storage.exists(output):
        raise MisconfigurationException(f"{output!r} is there already; name another file with -o, or remove it.")
    storage.save(storage.load(folder, map_location="cpu"), output)
    if arguments.json:
        say_json({"folder": folder, "file": output})
    else:
        say(plain(f"wrote {output}"))
    return 0


def _in_folder(path: str) -> list[str] | None:
    """Return the checkpoints in and below a folder, which may be a URL; None where `path` is no folder."""
    local = remote.local_path(path)
    if local is None:
        return sorted(url for url, _ in remote.checkpoints(path)) if remote.is_folder(path) else None
    if is_sharded(local) or not Path(local).is_dir():
        return None
    return sorted(str(one) for one in Path(local).rglob("*.ckpt"))


@contextmanager
def _no_word_of_torch() -> Iterator[None]:
    """What torch warns of in foreign files is either read all the same or becomes an error, which is one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _in_words(file: str, described: dict[str, Any]) -> str:
    """Return the description as lines and tables."""
    written_by = described["written_by"] or "an unknown program"
    layout = "" if described["format_version"] is None else f", format version {described['format_version']}"
    lines = [f"{file}: written by {written_by}{layout}"]
    lines.append(f"epoch {described['epoch']}, global step {described['global_step']}")
    lines += [_pairs(name, described[name]) for name in ("progress", "hyper_parameters") if described[name]]
    entries = [_entry(one) for one in described["entries"]]
    tables: list[tuple[str, list[str], list[list[object]]]] = [("Entries", ["Key", "Type", "Tensors", "Size"], entries)]
    weights: list[list[object]] = [
        [one["name"], _shape(one["shape"]), one["dtype"], size(one["bytes"])] for one in described["weights"]
    ]
    tables.append(("Weights", ["Name", "Shape", "Dtype", "Size"], weights))
    lines = [plain(line) for line in lines]
    lines += [table(title, headers, rows) for title, headers, rows in tables if rows]
    lines += [
        plain(f"Callback {one['key']}, version {one['version']}: {', '.join(one['holds'])}")
        for one in described["callbacks"]
    ]
    return "\n".join(lines)


def _pairs(name: str, values: dict[str, Any]) -> str:
    return f"{name}: " + ", ".join(f"{key}={value}" for key, value in values.items())


def _entry(entry: dict[str, Any]) -> list[object]:
    return [entry["key"], entry["type"], entry["tensors"] or "", size(entry["bytes"]) if entry["tensors"] else ""]


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape)) or "scalar"
