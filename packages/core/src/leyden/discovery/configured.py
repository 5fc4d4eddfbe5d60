"""Callbacks that a configuration file names: finding the class, checking the arguments, making the instance."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback
from leyden.configuration import RESERVED, CallbackTable, Configuration
from leyden.discovery.installed import describe, installed_callbacks, name_and_version
from leyden.errors import MisconfigurationException, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["Named", "make", "named", "names_of_callbacks"]

_NOT_BY_NAME = frozenset({"Callback", "Checkpoint", "LambdaCallback"})
_ANY = object()


@dataclass(frozen=True, slots=True)
class Named:
    """A callback class that a configuration may name, not imported yet."""

    distribution: str
    version: str
    load: Callable[[], Any]

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


def names_of_callbacks() -> list[str]:
    """Return every name that a table ``[callbacks.NAME]`` may have, whether its family is installed or not."""
    from leyden import callbacks

    built_in = [name for name in callbacks.__all__ if name not in _NOT_BY_NAME]
    return sorted({*built_in, *(entry_point.name for entry_point in installed_callbacks())})


def named(table: CallbackTable, configuration: Configuration) -> Named:
    """Return the class that a table names.

    Raises:
        MisconfigurationException: the name is that of no callback, or of several; or its family is not installed.
    """
    from leyden import callbacks

    name = table.name
    if name in callbacks.__all__ and name not in _NOT_BY_NAME:
        return _of_a_family(table, configuration)
    declared = [entry_point for entry_point in installed_callbacks() if entry_point.name == name]
    if len(declared) == 1:
        return _declared(declared[0])
    if declared:
        raise configuration.error(
            table.key,
            f"[callbacks.{name}]: {' and '.join(map(describe, declared))} both have a callback of this name; "
            "uninstall one of them.",
        )
    if any(sign in name for sign in ".:/"):
        raise configuration.error(
            table.key,
            f"[callbacks.{name!r}]: a configuration names installed callbacks and never imports by a path, so that "
            "whoever can write it cannot run code. Give the name alone, such as [callbacks.EarlyStopping].",
        )
    known = names_of_callbacks()
    raise configuration.error(
        table.key, f"[callbacks.{name}]: nothing installed here has a callback {name!r}.{did_you_mean(name, known)}"
    )


def _of_a_family(table: CallbackTable, configuration: Configuration) -> Named:
    from importlib.metadata import PackageNotFoundError, version

    from leyden import callbacks

    try:
        found = getattr(callbacks, table.name)
    except ImportError as error:
        raise configuration.error(table.key, f"[callbacks.{table.name}]: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Callback)):
        raise configuration.error(table.key, f"[callbacks.{table.name}]: {table.name} is no callback.")
    family = found.__module__.partition(".")[0]
    distribution = "leyden" if family == "leyden" else f"leyden-callbacks-{family.removeprefix('leyden_')}"
    try:
        of_version = version(distribution)
    except PackageNotFoundError:  # imported from a folder of sources
        of_version = ""
    return Named(distribution, of_version, lambda: found)


def _declared(entry_point: EntryPoint) -> Named:
    name, version = name_and_version(entry_point.dist)
    return Named(name, version, entry_point.load)


def make(found: type[Callback], table: CallbackTable, configuration: Configuration) -> Callback:
    """Return an instance made with the table's arguments, which are checked against the constructor's annotations.

    Raises:
        MisconfigurationException: an argument is unknown, missing or of a wrong type; with the file and the line.
    """
    arguments = dict(table.arguments)
    parameters, takes_any = _parameters(found)
    own_name = arguments.pop("name", None) if "name" not in parameters and not takes_any else None
    if own_name is not None and not isinstance(own_name, str):
        raise configuration.error((*table.key, "name"), f"name = {own_name!r:.80}: expected a string.")
    converted = _converted(table, arguments, parameters, takes_any, configuration)
    missing = [name for name, (_, required) in parameters.items() if required and name not in converted]
    if missing:
        raise configuration.error(
            table.key,
            f"[callbacks.{table.name}] lacks {' and '.join(missing)}, which {table.name} needs.",
        )
    try:
        callback = found(**converted)
    except MisconfigurationException as error:
        raise configuration.error(table.key, f"[callbacks.{table.name}]: {error}") from error
    if own_name is not None:
        callback.name = own_name
    return callback


def _converted(
    table: CallbackTable,
    arguments: Mapping[str, Any],
    parameters: Mapping[str, tuple[Any, bool]],
    takes_any: bool,
    configuration: Configuration,
) -> dict[str, Any]:
    from leyden.configuration.values import convert

    converted = {}
    for name, value in arguments.items():
        key = (*table.key, name)
        if name not in parameters and not takes_any:
            known = [*parameters, *RESERVED]
            raise configuration.error(
                key,
                f"{table.name} has no argument {name!r}; it has {', '.join(parameters) or 'none'}."
                f"{did_you_mean(name, known)}",
            )
        annotation, _ = parameters.get(name, (Any, False))
        try:
            converted[name] = convert(annotation, value)
        except ValueError as error:
            text = str(error)
            raise configuration.error(
                key, f"{table.name}({name}={value!r:.80}): {text}{'' if text[-1] in '.?' else '.'}"
            ) from None
    return converted


def _parameters(found: type) -> tuple[dict[str, tuple[Any, bool]], bool]:
    """Return annotation and whether it is required of each argument by name, and whether any other is taken too.

    A constructor with ``**kwargs`` hands them to its base's.
    """
    parameters: dict[str, tuple[Any, bool]] = {}
    takes_any = False
    for cls in found.__mro__:
        init = vars(cls).get("__init__")
        if init is None or cls is object:
            continue
        try:
            signature = inspect.signature(init)
        except (TypeError, ValueError):  # written in C
            return parameters, True
        takes_any = False
        for parameter in list(signature.parameters.values())[1:]:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                required = parameter.default is parameter.empty
                parameters.setdefault(parameter.name, (_annotation(init, parameter), required))
            takes_any = takes_any or parameter.kind is parameter.VAR_KEYWORD
        if not takes_any:
            break
    return parameters, takes_any


def _annotation(init: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return what an annotation stands for, Any where it names something that is imported for type checkers only."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    try:
        hints = typing.get_type_hints(_with_one(parameter.name, annotation), getattr(init, "__globals__", {}))
        return hints.get(parameter.name, Any)
    except Exception:
        return Any


def _with_one(name: str, annotation: Any) -> Any:
    def holder() -> None: ...

    holder.__annotations__ = {name: annotation}
    return holder
