"""``leyden doctor``: what may keep a training from running here, each with its fix."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leyden.cli.commands import Commands, new_command
from leyden.cli.doctor.attaching import examine_attaching
from leyden.cli.doctor.devices import examine_devices
from leyden.cli.doctor.section import Section
from leyden.cli.doctor.surroundings import examine_folder, examine_variables
from leyden.cli.doctor.versions import examine_versions
from leyden.cli.output import one_line, paragraph, say, say_json

__all__ = ["EXAMINATIONS", "add_to"]

EXAMINATIONS: Mapping[str, Callable[[], Section]] = {
    "Versions": examine_versions,
    "Devices": examine_devices,
    "Callbacks": examine_attaching,
    "Environment": examine_variables,
    "Folder": examine_folder,
}


def add_to(commands: Commands) -> None:
    """Add ``doctor``."""
    new_command(
        commands,
        "doctor",
        "Look for what may keep a training from running here.",
        "Versions, devices, factories of callbacks, configuration, environment variables and the working folder; each "
        "problem with its fix. Exits with 1 where there is one.",
        _doctor,
    )


def _doctor(arguments: argparse.Namespace) -> int:
    sections = [_examined(title, examine) for title, examine in EXAMINATIONS.items()]
    healthy = not any(section.problems for section in sections)
    if arguments.json:
        say_json({"healthy": healthy, "sections": [_as_data(section) for section in sections]})
    else:
        _show(sections)
    return 0 if healthy else 1


def _examined(title: str, examine: Callable[[], Section]) -> Section:
    """Examine one part; where that fails, it is a problem of that part and no end of the report."""
    try:
        return examine()
    except Exception as error:
        section = Section(title)
        section.trouble(
            f"this part could not be examined: {type(error).__name__}: {one_line(error)}",
            "Report it with the other parts of this report.",
        )
        return section


def _show(sections: Sequence[Section]) -> None:
    for section in sections:
        say(section.title)
        width = max((len(name) for name, _ in section.facts), default=0)
        for name, value in section.facts:
            say(paragraph(f"  {name:<{width}}  {value}", indent=width + 4))
        if not section.facts:
            say("  nothing to show")
        for note in section.notes:
            say(paragraph(f"  note: {note}"))
    problems = [problem for section in sections for problem in section.problems]
    say("No problems." if not problems else "Problems")
    for number, problem in enumerate(problems, start=1):
        say(paragraph(f"  {number}. {problem.problem}", indent=5))
        say(paragraph(f"     fix: {problem.fix}", indent=10))


def _as_data(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "facts": [{"name": name.strip(), "value": value} for name, value in section.facts],
        "problems": [{"problem": one.problem, "fix": one.fix} for one in section.problems],
        "notes": section.notes,
    }
