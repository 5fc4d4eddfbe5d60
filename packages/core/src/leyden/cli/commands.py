"""What every command has: a name, a sentence, and ``--json``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Commands", "new_command"]

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""Where commands are added: what ``ArgumentParser.add_subparsers`` returns."""


def new_command(
    commands: Commands, name: str, sentence: str, more: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Add a command; `run` gets the arguments and returns the exit status."""
    summary = sentence[0].lower() + sentence[1:].rstrip(".")
    command = commands.add_parser(name, help=summary, description=f"{sentence} {more}".strip())
    command.add_argument("--json", action="store_true", help="print JSON, for other programs")
    command.set_defaults(run=run)
    return command
