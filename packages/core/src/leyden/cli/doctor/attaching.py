"""What the environment attaches to trainers: broken factories, and mistakes in the configuration."""

from __future__ import annotations

import tomllib
from functools import partial
from pathlib import Path

from leyden.cli.doctor.section import Section
from leyden.cli.here import look_here, quietly
from leyden.cli.output import one_line
from leyden.configuration import CallbackTable, Configuration, read_configuration
from leyden.discovery import Broken
from leyden.discovery.configured import make, named
from leyden.discovery.factories import within
from leyden.discovery.switches import read_switch
from leyden.errors import MisconfigurationException
from leyden.hooks.spelling import edits_between

__all__ = ["examine_attaching"]

_MEND = "Mend it: a Trainer(...) here fails with it."


def examine_attaching() -> Section:
    """Read the configuration, then make a default trainer as a script would, and see what fails."""
    section = Section("Callbacks")
    try:
        configuration = read_configuration()
    except MisconfigurationException as error:
        section.trouble(one_line(error), _MEND)
        return section
    section.fact("configuration", configuration.path or "none")
    if configuration.path is None:
        _examine_unread(section)
    mistakes = _mistakes(configuration)
    for mistake in mistakes:
        section.trouble(mistake, _MEND)
    try:
        read_switch()
    except MisconfigurationException:
        section.fact("attached", "unknown, since LEYDEN_CALLBACKS is malformed")  # the variables' own part says how
        return section
    try:
        here = look_here()
    except MisconfigurationException as error:
        if one_line(error) not in mistakes:
            section.trouble(one_line(error), _MEND)
        return section
    if here.discovered.off_because:
        section.fact("attached", f"nothing: {here.discovered.off_because}")
        return section
    names = [type(one.callback).__name__ for one in here.ordered]
    section.fact("attached", ", ".join(names) or "nothing")
    for one in here.discovered.broken:
        section.trouble(one_line(str(one)), _fix_of(one))
    for warning in here.warnings:
        section.trouble(warning, "`leyden callbacks` shows what is attached here, and what not and why.")
    section.notes += here.notes
    return section


def _examine_unread(section: Section) -> None:
    """Look for a configuration that was meant to be read, in a folder where none is."""
    if Path("leyden.toml").is_file():
        section.trouble(
            "leyden.toml is in this folder, and nothing reads it.",
            "Set LEYDEN_CONFIG=leyden.toml, or put it as [tool.leyden] into pyproject.toml.",
        )
    try:
        tools = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError):  # none, or one that is the business of others
        return
    for name in tools if isinstance(tools, dict) else ():
        if name != "leyden" and edits_between(name.lower(), "leyden") <= 2:
            section.trouble(
                f"pyproject.toml has a table [tool.{name}], which nothing of Leyden reads. Did you mean [tool.leyden]?",
                "Rename it.",
            )


def _mistakes(configuration: Configuration) -> list[str]:
    """Return the mistakes of all callbacks' tables: a Trainer names the first, and then there is no Trainer."""
    found = []
    for table in configuration.callbacks:
        try:
            with quietly():
                within(configuration.timeout_s, partial(_try, table, configuration), "leyden: doctor")
        except MisconfigurationException as error:
            found.append(one_line(error))
        except Exception:  # what else fails is reported of the trainer, as a broken entry
            continue
    return found


def _try(table: CallbackTable, configuration: Configuration) -> None:
    found = named(table, configuration)
    if table.enabled:
        make(found.load(), table, configuration)


def _fix_of(broken: Broken) -> str:
    whose = broken.distribution
    return (
        f"Upgrade or uninstall {whose}, tell its authors, or leave it out: LEYDEN_CALLBACKS=without:{broken.name}, or "
        f'deny = ["{broken.name}"] in [discovery].'
    )
