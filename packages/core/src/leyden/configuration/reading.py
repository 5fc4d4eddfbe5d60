"""The configuration file: where it is, what it may hold, and errors that say the file and the line."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leyden.configuration.lines import KeyPath, key_lines
from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["RESERVED", "CallbackTable", "Configuration", "read_configuration"]

RESERVED = ("enabled", "rank_zero_only", "when")
"""Keys of a callback's table that are no arguments of it."""

_STAGES = ("fit", "validate", "test", "predict")
_TABLES = ("discovery", "callbacks")
_DISCOVERY = ("allow", "deny", "strict", "timeout_s", "settings")
_INSIDE = ("tool", "leyden")  # where the tables stand in a pyproject.toml
# Most projects that use Leyden only require it: their file is not parsed, for which `tomllib` takes 2 ms of the first
# Trainer. A key is followed by a bracket, a dot or an equals sign, whatever quotes and spaces it has.
_KEY_OF_OURS = re.compile(rb"""leyden["']?[ \t]*[\].=]""")


@dataclass(frozen=True, slots=True)
class CallbackTable:
    """A table ``[callbacks.NAME]``: what to make of which callback, and where that was written.

    Attributes:
        key: the keys that lead to it, from the top of the configuration.
        arguments: for the constructor, as the file has them.
        when: the entry points in which its hooks are called; None for all.
        where: ``file:line`` of the table.
    """

    name: str
    key: KeyPath
    arguments: Mapping[str, Any]
    enabled: bool
    rank_zero_only: bool
    when: tuple[str, ...] | None
    where: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """What operators set for every training in an environment; without a file everything is at its default.

    Attributes:
        path: the file it was read from, None without one.
        allow: factories or callbacks that may be attached, None for all; deny: those that may not.
        strict: whether a broken factory is an error.
        timeout_s: seconds a factory may take.
        settings: the mapping for each factory, by its name.
        callbacks: the tables of callbacks, in the order of the file.

    Example:
        >>> Configuration().timeout_s, Configuration().path
        (10.0, None)
    """

    path: Path | None = None
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    strict: bool = False
    timeout_s: float = 10.0
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    callbacks: Sequence[CallbackTable] = ()
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def where(self, *key: str | int) -> str:
        """Return ``file:line`` of a key, of the table around it where it is not in the file."""
        path = key
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.path}:{self.lines.get(path, 1)}"

    def error(self, key: KeyPath, message: str) -> MisconfigurationException:
        """Return the error to raise for what stands at `key`."""
        return MisconfigurationException(f"{self.where(*key)}: {message}")


_cache: dict[tuple[object, ...], Configuration] = {}


def read_configuration() -> Configuration:
    """Return the configuration: of the file that ``LEYDEN_CONFIG`` names, else of ``pyproject.toml`` in this folder.

    A ``pyproject.toml``, also one that ``LEYDEN_CONFIG`` names, holds it as ``[tool.leyden]``.

    Raises:
        MisconfigurationException: the file is missing or is no TOML, a key is unknown or a value of a wrong type; with
            the file, the line and the nearest name.
    """
    named = os.environ.get("LEYDEN_CONFIG", "").strip()
    path = Path(named or "pyproject.toml").expanduser()
    try:
        about = path.stat()
    except OSError as error:
        if not named:
            return Configuration()
        raise MisconfigurationException(
            f"LEYDEN_CONFIG={named!r}: {error.strerror}. Expected the path of a configuration file such as "
            "leyden.toml; mend the path, or unset LEYDEN_CONFIG."
        ) from None
    seen = (str(path.absolute()), str(path), about.st_mtime_ns, about.st_size, about.st_ino)
    if seen not in _cache:
        _cache.clear()
        _cache[seen] = _read(path)
    return _cache[seen]


def _read(path: Path) -> Configuration:
    if path.is_dir():
        raise MisconfigurationException(f"LEYDEN_CONFIG names the folder {path}; expected a file such as leyden.toml.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MisconfigurationException(f"{path} cannot be read: {error.strerror}. Mend its permissions.") from None
    in_project = path.name == "pyproject.toml"
    if in_project and not _KEY_OF_OURS.search(data):
        return Configuration()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MisconfigurationException(f"{path}:{line}: this is not UTF-8, which TOML has to be.") from None
    document = _parsed(path, text)
    lines: dict[KeyPath, int] = {}
    if in_project:
        for key in _INSIDE:
            document = document.get(key, {})
            if not isinstance(document, dict):
                raise MisconfigurationException(f"{path}: {'.'.join(_INSIDE)} is {document!r:.80}; expected a table.")
        if not document:
            return Configuration()
        lines = {key[2:]: line for key, line in key_lines(text).items() if key[:2] == _INSIDE}
    else:
        lines = key_lines(text)
    return _checked(document, Configuration(path=path, lines=lines))


def _parsed(path: Path, text: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        line = int(found[1]) if found else text.rstrip("\n").count("\n") + 1
        problem = re.sub(r"\s*\(at [^()]*\)$", "", str(error))
        raise MisconfigurationException(f"{path}:{line}: this is not TOML: {problem}.") from None


def _checked(document: dict[str, Any], read: Configuration) -> Configuration:
    for name, table in document.items():
        if name not in _TABLES:
            expected = f"expected {_listed(_TABLES)}.{did_you_mean(name, _TABLES)}"
            raise read.error((name,), f"there is no table [{name}]; {expected}")
        if not isinstance(table, dict):
            raise read.error((name,), f"{name} is {table!r:.80}; expected a table [{name}].")
    discovery = document.get("discovery", {})
    for name, value in discovery.items():
        if name not in _DISCOVERY:
            raise read.error(
                ("discovery", name),
                f"[discovery] has no key {name!r}; expected {_listed(_DISCOVERY)}.{did_you_mean(name, _DISCOVERY)}",
            )
        if problem := _problem(name, value):
            raise read.error(("discovery", name), f"{name} = {value!r:.80}: expected {problem}.")
    return Configuration(
        path=read.path,
        allow=tuple(discovery["allow"]) if "allow" in discovery else None,
        deny=tuple(discovery.get("deny", ())),
        strict=discovery.get("strict", False),
        timeout_s=float(discovery.get("timeout_s", 10.0)),
        settings=discovery.get("settings", {}),
        callbacks=_tables(document.get("callbacks", {}), read),
        lines=read.lines,
    )


def _problem(name: str, value: Any) -> str | None:
    """Return what is expected for a key of [discovery], None where `value` is that."""
    if name in ("allow", "deny"):
        right = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return None if right else "a list of names of factories, distributions or callbacks"
    if name == "strict":
        return None if isinstance(value, bool) else "true or false"
    if name == "timeout_s":
        right = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
        return None if right else "a number of seconds above 0"
    right = isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())
    return None if right else "a table per factory, such as [discovery.settings.checkpoint]"


def _tables(callbacks: dict[str, Any], read: Configuration) -> list[CallbackTable]:
    tables = []
    for name, found in callbacks.items():
        several = isinstance(found, list)
        for number, table in enumerate(found if several else [found]):
            key: KeyPath = ("callbacks", name, number) if several else ("callbacks", name)
            if not isinstance(table, dict):
                raise read.error(
                    key, f"callbacks.{name} is {table!r:.80}; expected a table [callbacks.{name}] with its arguments."
                )
            tables.append(_table(name, key, table, read))
    return tables


def _table(name: str, key: KeyPath, table: dict[str, Any], read: Configuration) -> CallbackTable:
    for flag in ("enabled", "rank_zero_only"):
        if not isinstance(table.get(flag, True), bool):
            raise read.error((*key, flag), f"{flag} = {table[flag]!r:.80}: expected true or false.")
    when = table.get("when")
    if when is not None:
        wrong = [one for one in when if one not in _STAGES] if isinstance(when, list) else [when]
        if wrong or not when:
            near = did_you_mean(str(wrong[0]), _STAGES) if wrong else ""
            raise read.error((*key, "when"), f"when = {when!r:.80}: expected a list of {_listed(_STAGES)}.{near}")
    return CallbackTable(
        name=name,
        key=key,
        arguments={argument: value for argument, value in table.items() if argument not in RESERVED},
        enabled=table.get("enabled", True),
        rank_zero_only=table.get("rank_zero_only", False),
        when=None if when is None else tuple(when),
        where=read.where(*key),
    )


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
