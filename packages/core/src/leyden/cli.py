"""The command ``leyden``: looking into checkpoints without running what they hold."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from leyden.errors import MisconfigurationException
from leyden.state import storage
from leyden.state.description import describe
from leyden.tables import render_table

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 when `verify` found a checkpoint that is not whole, or 2 after an error.

    Errors are one line on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough; nothing is to be flushed to it at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MisconfigurationException, OSError, ImportError) as error:
        print(f"leyden: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return status


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"leyden: error: {message} (see `{self.prog} --help`)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="leyden", description="Tools for runs of Leyden.")
    groups = parser.add_subparsers(required=True, metavar="COMMAND")
    checkpoint = groups.add_parser("checkpoint", help="look into checkpoints", description="Look into checkpoints.")
    commands = checkpoint.add_subparsers(required=True, metavar="COMMAND")
    show = commands.add_parser(
        "show",
        help="print what a checkpoint holds",
        description="Print what a checkpoint holds: keys, shapes, sizes, callbacks, progress, versions. "
        "Nothing in the file is executed.",
    )
    show.add_argument("file", metavar="FILE")
    show.set_defaults(run=_show)
    verify = commands.add_parser(
        "verify",
        help="say which checkpoints are whole",
        description="Read checkpoints and compare them with their checksums. Exits with 1 when one is not whole.",
    )
    verify.add_argument("path", metavar="DIR_OR_FILE", help="a file, or a folder whose *.ckpt files are all read")
    verify.set_defaults(run=_verify)
    for command in (show, verify):
        command.add_argument("--json", action="store_true", help="print JSON, for other programs")
    return parser


def _show(arguments: argparse.Namespace) -> int:
    # On "meta" tensors have shapes and no values: a checkpoint larger than the memory can be looked into.
    checkpoint = storage.load(arguments.file, map_location="meta")
    if not isinstance(checkpoint, dict):
        raise MisconfigurationException(
            f"{arguments.file!r} holds a {type(checkpoint).__name__}; expected a checkpoint, which is a dict."
        )
    described = describe(checkpoint)
    print(json.dumps(described, indent=2) if arguments.json else _in_words(arguments.file, described))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    given = Path(arguments.path)
    paths = sorted(map(str, given.rglob("*.ckpt"))) if given.is_dir() else [arguments.path]
    if not paths:
        raise MisconfigurationException(f"{arguments.path!r} is a folder without a *.ckpt file in or below it.")
    results = []
    for path in paths:
        try:
            storage.verify(path)
            results.append({"path": path, "whole": True, "problem": None})
        except MisconfigurationException as error:
            results.append({"path": path, "whole": False, "problem": _one_line(error)})
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        print("\n".join(f"whole   {one['path']}" if one["whole"] else f"broken  {one['problem']}" for one in results))
    return 0 if all(one["whole"] for one in results) else 1


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
        [one["name"], _shape(one["shape"]), one["dtype"], _size(one["bytes"])] for one in described["weights"]
    ]
    tables.append(("Weights", ["Name", "Shape", "Dtype", "Size"], weights))
    lines += [render_table(headers, rows, title=title) for title, headers, rows in tables if rows]
    lines += [
        f"Callback {one['key']}, version {one['version']}: {', '.join(one['holds'])}" for one in described["callbacks"]
    ]
    # The names come from the file: none of them is to move the cursor or colour the terminal.
    return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in "\n".join(lines))


def _pairs(name: str, values: dict[str, Any]) -> str:
    return f"{name}: " + ", ".join(f"{key}={value}" for key, value in values.items())


def _entry(entry: dict[str, Any]) -> list[object]:
    return [entry["key"], entry["type"], entry["tensors"] or "", _size(entry["bytes"]) if entry["tensors"] else ""]


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape)) or "scalar"


def _size(count: int) -> str:
    """Return bytes in a unit that leaves at most three digits before the point.

    Example:
        >>> _size(999), _size(1_500_000)
        ('999 B', '1.5 MB')
    """
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.95 and len(units) > 1:
        size /= 1000
        del units[0]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
