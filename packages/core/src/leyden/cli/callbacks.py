"""``leyden callbacks``: what is installed, what a trainer gets here, in which order, and what not and why."""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from leyden.callbacks import families
from leyden.cli.commands import Commands, new_command
from leyden.cli.here import Here, look_here
from leyden.cli.output import one_line, paragraph, say, say_json, table
from leyden.configuration import read_configuration
from leyden.discovery import installed_callbacks, installed_factories
from leyden.discovery.installed import canonical, name_and_version
from leyden.hooks.ordering import Ordered

__all__ = ["add_to", "installed"]


def add_to(commands: Commands) -> None:
    """Add ``callbacks``."""
    new_command(
        commands,
        "callbacks",
        "Show which callbacks are installed and which a Trainer gets here.",
        "The families with their versions, callbacks and factories; what Trainer() would attach in this folder, with "
        "this environment and configuration, in order; and what it would not, and why. Factories are called for that.",
        _callbacks,
    )


def installed() -> list[dict[str, Any]]:
    """Return every distribution that brings callbacks: its version, their names, its factories; families first.

    `version` is None where a family is not installed.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, callbacks in families().items():
        found[canonical(name)] = _entry(name, _version(name), sorted(callbacks))
    for entry_point in [*installed_callbacks(), *installed_factories()]:
        name, of_version = name_and_version(entry_point.dist)
        found.setdefault(canonical(name), _entry(name, of_version, []))
    for entry_point in installed_callbacks():
        names = found[canonical(name_and_version(entry_point.dist)[0])]["callbacks"]
        names += [] if entry_point.name in names else [entry_point.name]
    for entry_point in installed_factories():
        factory = {"name": entry_point.name, "value": entry_point.value}
        found[canonical(name_and_version(entry_point.dist)[0])]["factories"].append(factory)
    return list(found.values())


def _entry(name: str, of_version: str | None, callbacks: list[str]) -> dict[str, Any]:
    return {"distribution": name, "version": of_version, "callbacks": callbacks, "factories": []}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _callbacks(arguments: argparse.Namespace) -> int:
    here = look_here()
    if arguments.json:
        say_json(_as_data(here))
    else:
        _show_installed(installed())
        _show_here(here)
    return 0


def _show_installed(distributions: list[dict[str, Any]]) -> None:
    rows = [
        [
            one["distribution"],
            one["version"] or "?",
            ", ".join(one["callbacks"]),
            ", ".join(factory["name"] for factory in one["factories"]),
        ]
        for one in distributions
        if one["version"] is not None
    ]
    if rows:
        say(table("Installed", ["distribution", "version", "callbacks", "factory"], rows))
    for one in distributions:
        if one["version"] is None:
            names = ", ".join(one["callbacks"])
            say(paragraph(f"Not installed: {one['distribution']} ({names}). pip install {one['distribution']}"))


def _show_here(here: Here) -> None:
    found = here.discovered
    rows: list[list[object]] = [
        [place, type(one.callback).__name__, one.placed.distribution or one.placed.source, _reason(one)]
        for place, one in enumerate(here.ordered, start=1)
    ]
    headers = ["", "callback", "from", "reason"]
    say("")
    say(table("Attached to a Trainer() here, in the order of their calls", headers, rows) if rows else _nothing(here))
    if found.left_out:
        left_out = [[one.callback, one.distribution, one.reason] for one in found.left_out]
        say("\n" + table("Not attached", ["callback", "from", "reason"], left_out))
    if found.broken:
        broken = [[f"{b.distribution} {b.version}".strip(), f"{b.name} = {b.value}", b.cause] for b in found.broken]
        say("\n" + table("Broken", ["distribution", "entry point", "cause"], broken))
    for warning in _untold(here):
        say(paragraph(f"warning: {warning}"))
    for note in here.notes:
        say(paragraph(f"note: {note}"))


def _untold(here: Here) -> list[str]:
    """Return the warnings that are not in the table of what is left out."""
    left_out = here.discovered.left_out
    told = {one_line(f"{one.callback} of {one.distribution} is left out: {one.reason}") for one in left_out}
    return [warning for warning in here.warnings if warning not in told]


def _reason(one: Ordered) -> str:
    """Return the reason for a place without the distribution, which stands beside it."""
    return one.reason.removeprefix(f"attached by {one.placed.distribution}").removeprefix("; ")


def _nothing(here: Here) -> str:
    because = here.discovered.off_because
    return paragraph(f"Nothing is attached to a Trainer() here{f': {because}' if because else ''}.")


def _as_data(here: Here) -> dict[str, Any]:
    found = here.discovered
    path = None if found.off_because else read_configuration().path
    return {
        "installed": installed(),
        "configuration": None if path is None else str(path),
        "off_because": found.off_because or None,
        "attached": [
            {
                "callback": type(one.callback).__name__,
                "source": one.placed.source,
                "distribution": one.placed.distribution,
                "where": one.placed.where,
                "when": None if one.placed.when is None else list(one.placed.when),
                "reason": one.reason,
            }
            for one in here.ordered
        ],
        "left_out": [
            {"callback": one.callback, "distribution": one.distribution, "reason": one.reason} for one in found.left_out
        ],
        "broken": [
            {"distribution": b.distribution, "version": b.version, "name": b.name, "value": b.value, "cause": b.cause}
            for b in found.broken
        ],
        "warnings": _untold(here),
        "notes": list(here.notes),
    }
