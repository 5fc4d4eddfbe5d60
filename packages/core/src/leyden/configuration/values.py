"""Values of a TOML file as the types a constructor asks for: durations, paths, choices, and what TOML has itself."""

from __future__ import annotations

import collections.abc
import re
import types
from datetime import timedelta
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from leyden.errors import did_you_mean

__all__ = ["convert", "in_words"]

_CLOCK = re.compile(r"(\d+):(\d{1,2}):(\d{1,2}):(\d{1,2})")
_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def convert(annotation: Any, value: Any) -> Any:
    """Return `value`, as `tomllib` read it, as `annotation` asks for; a ValueError says what is expected instead.

    ``"DD:HH:MM:SS"`` becomes a timedelta, a string a path, the name or value of an enumeration its member; inside lists
    and dicts too, also as the keys of a dict. An annotation that cannot be checked takes anything, since the
    constructor checks its arguments itself.

    Example:
        >>> convert(timedelta | None, "00:12:00:00")
        datetime.timedelta(seconds=43200)
        >>> convert(dict[int, float], {"4": 1})
        {4: 1.0}
        >>> convert(Literal["step", "epoch"], "steps")
        Traceback (most recent call last):
        ValueError: expected 'step' or 'epoch'. Did you mean 'step'?
    """
    while hasattr(annotation, "__value__") or hasattr(annotation, "__supertype__"):  # `type X = ...` and NewType
        annotation = getattr(annotation, "__value__", None) or annotation.__supertype__
    origin = get_origin(annotation)
    if origin is Annotated:
        return convert(get_args(annotation)[0], value)
    if origin in (Union, types.UnionType):
        return _to_union(annotation, value)
    if origin is Literal:
        return _to_literal(get_args(annotation), value)
    if origin in _LISTS or annotation in _LISTS or origin in (tuple, set, frozenset):
        return _to_list(annotation, origin or annotation, value)
    if origin in _DICTS or annotation in _DICTS:
        return _to_dict(get_args(annotation), value)
    kind = origin or annotation
    checkable = isinstance(kind, type) and kind not in (object, Any) and not getattr(kind, "_is_protocol", False)
    return _to_class(kind, value) if checkable else value


def in_words(annotation: Any) -> str:
    """Return what may be written for `annotation`, in a word or two.

    Example:
        >>> in_words(int | None), in_words(list[Path]), in_words(timedelta)
        ('an int', 'a list, each of them the path of a file or folder', "a duration 'DD:HH:MM:SS'")
    """
    while hasattr(annotation, "__value__") or hasattr(annotation, "__supertype__"):
        annotation = getattr(annotation, "__value__", None) or annotation.__supertype__
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0])
    if origin in (Union, types.UnionType):
        return _or(dict.fromkeys(in_words(one) for one in arguments if one is not type(None)))
    if origin is Literal:
        return _or(map(repr, arguments))
    if origin in _LISTS or annotation in _LISTS or origin in (tuple, set, frozenset):
        of = [one for one in arguments if one is not ... and one is not Any]
        return f"a list, each of them {in_words(of[0])}" if len(set(of)) == 1 else "a list"
    if origin in _DICTS or annotation in _DICTS:
        return "a table"
    kind = origin or annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _or(repr(one.name) for one in kind)
    named = {
        bool: "true or false", int: "an int", float: "a number", str: "a string", timedelta: "a duration 'DD:HH:MM:SS'"
    }  # fmt: skip
    if kind in named:
        return named[kind]
    if isinstance(kind, type) and issubclass(kind, PathLike):
        return "the path of a file or folder"
    return getattr(kind, "__name__", str(kind))


def _to_class(kind: type, value: Any) -> Any:
    expected = f"expected {in_words(kind)}"
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    if kind is timedelta:
        return _to_duration(value)
    if isinstance(value, str) and issubclass(kind, PathLike):
        return Path(value) if kind is PathLike or not issubclass(kind, Path) else kind(value)
    if issubclass(kind, Enum):
        for one in kind:
            if value == one.value or (isinstance(value, str) and value.lower() == one.name.lower()):
                return one
        names = [one.name for one in kind]
        near = did_you_mean(str(value), names) or did_you_mean(str(value).upper(), names)
        raise ValueError(f"{expected}.{near}")
    if kind.__module__ not in ("builtins", "datetime") and not issubclass(kind, PathLike):
        raise ValueError(f"{expected}, which cannot be written in a file; set it where the Trainer is made")
    raise ValueError(expected)


def _to_duration(value: Any) -> timedelta:
    match = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None:
        days, hours, minutes, seconds = map(int, match.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if isinstance(value, dict) and value:
        try:
            return timedelta(**value)
        except (TypeError, OverflowError):
            pass
    raise ValueError("expected 'DD:HH:MM:SS' (days, hours, minutes, seconds), e.g. '00:12:00:00' for 12 hours")


def _to_union(annotation: Any, value: Any) -> Any:
    """Take the first alternative that takes the value as it is, else the first that it can be made into."""
    alternatives = sorted(get_args(annotation), key=lambda one: not _is_natural(one, value))
    problems = []
    for one in alternatives:
        try:
            if one is not type(None):
                return convert(one, value)
        except ValueError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise ValueError(problems[0])
    raise ValueError(f"expected {in_words(annotation)}")


def _is_natural(annotation: Any, value: Any) -> bool:
    """Whether `annotation` asks for the kind of value that `value` is as TOML has it."""
    kind = get_origin(annotation) or annotation
    return type(value) is kind or (kind in _DICTS and type(value) is dict) or (kind in _LISTS and type(value) is list)


def _to_literal(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    raise ValueError(f"expected {_or(map(repr, choices))}.{did_you_mean(str(value), map(str, choices))}")


def _to_list(annotation: Any, origin: Any, value: Any) -> Any:
    if not isinstance(value, list):
        raise ValueError("expected a list")
    arguments = get_args(annotation)
    make = origin if origin in (tuple, set, frozenset) else list
    if make is tuple and arguments and arguments[-1] is not ...:
        if len(arguments) != len(value):
            raise ValueError(f"expected a list of {len(arguments)}, got {len(value)}")
        return tuple(convert(of, item) for of, item in zip(arguments, value, strict=True))
    of = arguments[0] if arguments else Any
    made = []
    for number, item in enumerate(value):
        try:
            made.append(convert(of, item))
        except ValueError as error:
            raise ValueError(f"its element {number}, {item!r}: {error}") from None
    return make(made)


def _to_dict(arguments: tuple[Any, ...], value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a table")
    of_keys, of_values = arguments or (Any, Any)
    made = {}
    for key, item in value.items():
        try:
            made[_to_key(of_keys, key)] = convert(of_values, item)
        except ValueError as error:
            raise ValueError(f"its {key!r}: {error}") from None
    return made


def _to_key(annotation: Any, key: str) -> Any:
    """Return a key, which TOML has as strings only, as a number where a number is asked for."""
    if annotation in (int, float):
        try:
            return annotation(key)
        except ValueError:
            raise ValueError(f"expected {in_words(annotation)} as the key") from None
    return convert(annotation, key)


def _or(words: Any) -> str:
    *others, last = list(words) or ["nothing"]
    return f"{', '.join(others)} or {last}" if others else last
