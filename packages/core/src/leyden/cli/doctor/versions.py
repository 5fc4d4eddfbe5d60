"""Which versions are installed, whether they go together, and whether the families can be imported."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import torch

from leyden import callbacks
from leyden.cli.doctor.requirements import parse_requirement, satisfies
from leyden.cli.doctor.section import Section
from leyden.discovery import installed_callbacks, installed_factories
from leyden.discovery.installed import canonical, name_and_version

__all__ = ["examine_versions"]


def examine_versions() -> Section:
    """Look at Python, torch, the core, every distribution that brings callbacks, and what these use."""
    section = Section("Versions")
    section.fact("python", f"{platform.python_version()} ({sys.executable})")
    section.fact("torch", torch.__version__)
    _examine_core(section)
    bringing = _bringing_callbacks()
    for one in [_distribution("leyden"), *bringing]:
        if one is not None:
            _examine(one, section)
    _import_families(section, {canonical(name_and_version(one)[0]) for one in bringing})
    return section


def _examine_core(section: Section) -> None:
    import leyden

    section.fact("leyden", leyden.__version__)
    core = _distribution("leyden")
    if core is None:
        section.note("leyden runs from a folder of sources and is not installed, so that its families cannot check it.")
    elif core.version != leyden.__version__:
        section.trouble(
            f"leyden {leyden.__version__} is imported from {leyden.__path__[0]}, and {core.version} is installed.",
            "Reinstall it where it is imported from, or take that folder off sys.path.",
        )


def _bringing_callbacks() -> list[Distribution]:
    """Return the families, and others' distributions that declare callbacks or factories, once each."""
    found = [_distribution(name) for name in callbacks.families()]
    found += [entry_point.dist for entry_point in (*installed_factories(), *installed_callbacks())]
    unique = {canonical(name_and_version(one)[0]): one for one in found if one is not None}
    return list(unique.values())


def _examine(one: Distribution, section: Section) -> None:
    name, version = name_and_version(one)
    if name != "leyden":
        section.fact(name, version or "?")
    for text in _requires(one, section):
        requirement = parse_requirement(text)
        if requirement is None or requirement.condition:  # an extra, or a condition that may not hold here
            continue
        wanted = f"{requirement.name}{requirement.range}"
        used = _distribution(requirement.name)
        if used is None:
            section.trouble(f"{name} {version} needs {wanted}, which is not installed.", f"pip install '{wanted}'")
            continue
        if canonical(requirement.name) not in ("leyden", "torch"):
            section.fact(f"  {requirement.name}", f"{used.version} (needs {requirement.range or 'any'})")
        if satisfies(used.version, requirement.range) is False:
            section.trouble(
                f"{name} {version} needs {wanted}, and {requirement.name} {used.version} is installed.",
                f"pip install --upgrade {name} '{wanted}'",
            )


def _requires(one: Distribution, section: Section) -> list[str]:
    try:
        return one.requires or []
    except Exception:  # its metadata is missing or damaged: nothing else is to suffer from that
        where = one.locate_file("")
        section.trouble(
            f"{name_and_version(one)[0]} in {where} has no metadata that can be read.",
            "Reinstall it, or remove its .dist-info folder there.",
        )
        return []


def _import_families(section: Section, installed: set[str]) -> None:
    """Import every callback of the installed families, which reveals a family of another age than the core."""
    for name, members in callbacks.families().items():
        if canonical(name) not in installed:
            continue
        for member in members:
            try:
                getattr(callbacks, member)
            except Exception as error:
                section.trouble(
                    f"{member} of {name} cannot be imported: {type(error).__name__}: {error}",
                    f"pip install --upgrade leyden {name}",
                )
                break  # what is wrong with one is wrong with the others


def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
