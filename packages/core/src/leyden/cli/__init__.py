"""The command ``leyden``: what a run would be made of, what is wrong with it, what checkpoints hold; a new family."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from leyden.cli import callbacks, check, checkpoint, doctor, hooks, new
from leyden.cli.output import one_line, plain, say
from leyden.errors import MisconfigurationException

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 where it found something wrong, or 2 after an error.

    Errors are one line on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        if sys.stdout is not None:  # None where the process was started with it closed
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has enough; nothing is to be flushed to it at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MisconfigurationException, OSError, ImportError) as error:
        say(f"leyden: error: {one_line(error)}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell counts it: 128 and the number of the signal
    return status


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"leyden: error: {plain(message)} (see `{self.prog} --help`)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="leyden", description="Look into runs of Leyden before and after they happen; begin a family of callbacks."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (callbacks, hooks, check, doctor, checkpoint, new):
        group.add_to(commands)
    return parser
