"""What installed distributions declare: factories of callbacks, and callbacks that a configuration may name.

The files of all distributions are read once in a process, and again when a folder on `sys.path` has changed: a
`Trainer` then costs a few `stat` calls.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from leyden.discovery.found import Broken, in_one_line

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

__all__ = [
    "CALLBACKS_GROUP",
    "GROUP",
    "canonical",
    "describe",
    "installed_callbacks",
    "installed_factories",
    "name_and_version",
    "unreadable_distributions",
]

GROUP = "leyden.callbacks_factory"
"""The entry-point group in which a distribution names its factory of callbacks."""

CALLBACKS_GROUP = "leyden.callbacks"
"""The group in which a distribution names callback classes that a configuration file may attach by that name."""

UNNAMED = "an unnamed distribution"
_FIELD = re.compile(r"^(Name|Version):[ \t]*(.*\S)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Installed:
    factories: tuple[EntryPoint, ...]
    callbacks: tuple[EntryPoint, ...]
    broken: tuple[Broken, ...]


_cache: dict[tuple[object, ...], _Installed] = {}


def installed_factories() -> list[EntryPoint]:
    """Return the entry points of `GROUP`, sorted by distribution and name, so that every process sees one order.

    Nothing is imported. A distribution that is on `sys.path` twice, from a wheel and from a checkout, counts once: the
    first is the one that is imported.
    """
    return list(_installed().factories)


def installed_callbacks() -> list[EntryPoint]:
    """Return the entry points of `CALLBACKS_GROUP`, sorted likewise."""
    return list(_installed().callbacks)


def unreadable_distributions() -> list[Broken]:
    """Return the distributions that name the group in a file that cannot be understood."""
    return list(_installed().broken)


@lru_cache(maxsize=256)  # every Trainer asks
def name_and_version(distribution: Distribution | None) -> tuple[str, str]:
    """Return both, or what stands for them where the metadata lacks them."""
    if distribution is None:
        return UNNAMED, ""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except (OSError, UnicodeDecodeError):
        text = ""
    head = dict(_FIELD.findall(text.partition("\n\n")[0]))  # the rest is a README, which takes the parser of mails 1 ms
    return head.get("Name", UNNAMED), head.get("Version", "")


def describe(entry_point: EntryPoint) -> str:
    """Return distribution and version of an entry point, as messages show them."""
    return " ".join(name_and_version(entry_point.dist)).strip()


def canonical(name: str) -> str:
    """Return a name as it is compared: without case, and with one sign for dashes, dots and underscores.

    Example:
        >>> canonical("Leyden_Callbacks.optim")
        'leyden-callbacks-optim'
    """
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _installed() -> _Installed:
    seen = (len(sys.meta_path), *map(_mark, sys.path))
    if seen not in _cache:
        _cache.clear()
        _cache[seen] = _read()
    return _cache[seen]


def _mark(folder: str) -> tuple[object, ...]:
    """Return what changes when a distribution comes into a folder or leaves it."""
    try:
        about = os.stat(folder or ".")
    except (OSError, ValueError):
        return (folder,)
    return folder, about.st_ino, about.st_mtime_ns, about.st_nlink


def _read() -> _Installed:
    from importlib.metadata import distributions

    found: list[EntryPoint] = []
    broken: list[Broken] = []
    names: set[str] = set()
    for distribution in distributions():
        try:
            # `importlib.metadata.entry_points` parses every file, and one with a mistake in it makes it fail for all.
            text = distribution.read_text("entry_points.txt") or ""
        except (OSError, UnicodeDecodeError):
            continue
        if CALLBACKS_GROUP not in text:
            continue
        name, version = name_and_version(distribution)
        if name != UNNAMED and canonical(name) in names:
            continue
        names.add(canonical(name))
        try:
            found += [one for one in distribution.entry_points if one.group in (GROUP, CALLBACKS_GROUP)]
        except Exception as error:
            broken.append(Broken(name, version, "entry_points.txt", "?", f"it cannot be read: {in_one_line(error)}"))
    found.sort(key=lambda one: (canonical(name_and_version(one.dist)[0]), one.name))
    return _Installed(tuple(_of(GROUP, found)), tuple(_of(CALLBACKS_GROUP, found)), tuple(broken))


def _of(group: str, entry_points: list[EntryPoint]) -> Iterator[EntryPoint]:
    return (one for one in entry_points if one.group == group)
