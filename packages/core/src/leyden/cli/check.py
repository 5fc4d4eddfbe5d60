"""``leyden check``: a callback run through what makes a good one, without a test being written."""

from __future__ import annotations

import argparse
from typing import Any

from leyden.callback import Callback
from leyden.cli.commands import Commands, new_command
from leyden.cli.importing import imported
from leyden.cli.output import plain, say, say_json, table
from leyden.errors import MisconfigurationException, with_article

__all__ = ["add_to"]


def add_to(commands: Commands) -> None:
    """Add ``check``."""
    command = new_command(
        commands,
        "check",
        "Run a callback through what makes a good one.",
        "Trains a small model on the CPU, some twenty times, in temporary folders, as leyden.testing.check_callback "
        "does. Exits with 1 where a property is broken.",
        _check,
    )
    command.add_argument(
        "target",
        metavar="MODULE:CLASS",
        help="package.module:Class or path/to/file.py:Class, or there a function without arguments that returns one",
    )
    command.add_argument("--only-watches", action="store_true", help="it claims to change nothing of the run")
    command.add_argument("--reports-every-n-steps", type=int, metavar="N", help="when it may read tensors")
    command.add_argument("--calls-per-step", type=int, metavar="N", help="how many Python calls it may make at a step")
    command.add_argument(
        "--varies", action="append", metavar="NAME", help="part of the names of what is not the same twice: seconds"
    )
    command.add_argument(
        "--without", action="append", metavar="PROPERTY=REASON", default=[], help="a property that is not checked"
    )


def _check(arguments: argparse.Namespace) -> int:
    from leyden.testing import check_callback

    make = imported(arguments.target, (Callback,))
    if not callable(make) or isinstance(make, Callback):
        raise MisconfigurationException(
            f"{arguments.target} is {with_article(type(make).__qualname__)}; expected a class of callbacks, or a "
            "function without arguments that returns a fresh one."
        )
    report = check_callback(make, **_claims(arguments))
    rows = [[result.name, result.outcome, result.reason] for result in report.values()]
    if arguments.json:
        say_json({"callback": report.callback, "properties": [dict(zip(_COLUMNS, row, strict=True)) for row in rows]})
    else:
        say(table(plain(report.summary), _COLUMNS, rows))
    return 0 if report else 1


_COLUMNS = ("property", "result", "reason")


def _claims(arguments: argparse.Namespace) -> dict[str, Any]:
    claims: dict[str, Any] = {"without": {}}
    for given in arguments.without:
        name, _, reason = given.partition("=")
        claims["without"][name] = reason
    for name in ("reports_every_n_steps", "calls_per_step", "varies"):
        if getattr(arguments, name) is not None:
            claims[name] = getattr(arguments, name)
    if arguments.only_watches:
        claims["only_watches"] = True
    return claims
