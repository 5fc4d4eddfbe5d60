"""Stand-ins for what a pickle makes, and the keys of its dicts: they must not take long to hash or to compare."""

from __future__ import annotations

import datetime
import struct
from collections import Counter
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any

__all__ = ["Made", "Name", "Table"]

_NODES_OF_KEY = 1000
_EQUAL_HASHES = 1000
_UNKNOWN_HASHES = 10_000
_RANDOM_HASHES = ("Path", "date", "datetime", "time", "encode", "dtype", "device")  # or of no more than a few values
_OF_CODE = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d", "m8": "q", "M8": "q",
}  # fmt: skip


class Name:
    """Stands for a function or class."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Made:
    """Stands for what a call returns; of storages and their like, without a name.

    Attributes:
        args: what it was called with.
        weight: how many bytes the call may copy, about.
        order: the byte order, of a NumPy dtype.
        table: what was put into it, if it is a dict of some kind.
    """

    __slots__ = ("args", "name", "order", "table", "weight")

    def __init__(self, name: str, args: tuple[Any, ...], weight: int) -> None:
        self.name, self.args, self.weight = name, args, weight
        self.order: Any = ""
        self.table: Table | None = None


class Table:
    """Stands for a dict; its values are of no account."""

    __slots__ = ("count", "hashes")

    def __init__(self) -> None:
        self.count, self.hashes = 0, Counter[Any]()

    def add(self, key: Any) -> None:
        """Take one more key.

        Raises:
            UnpicklingError: it would take long to hash it, or to tell it from the others.
        """
        self.count += 1
        if type(key) is str:
            return
        which: int | str | None = None
        most = _EQUAL_HASHES
        if _holds_made(key):
            try:
                which = hash(_alike(key))
            except _UnknownError:
                which, most = "unknown", _UNKNOWN_HASHES
        elif isinstance(key, int | float | tuple):
            which = hash(key)
        if which is not None:
            self.hashes[which] += 1
            if self.hashes[which] > most:
                raise UnpicklingError("keys that a dict would have to compare with one another")


class _UnknownError(Exception):
    """What the hash is of something that a call makes."""


def _holds_made(key: Any) -> bool:
    """Return whether hashing it asks what a call makes; refuse one whose hash would take long, or the whole stack."""
    waiting, nodes, made = [key], 1, False
    while waiting:
        one = waiting.pop()
        made = made or isinstance(one, Made)
        parts = one.args if isinstance(one, Made) else one if isinstance(one, tuple) else ()
        nodes += len(parts)
        if nodes > _NODES_OF_KEY:
            raise UnpicklingError(f"a key of more than {_NODES_OF_KEY} parts")
        waiting.extend(parts)
    return made


def _alike(key: Any) -> Any:
    """Return what has the hash of another key wherever `key` has."""
    if isinstance(key, tuple):
        return tuple([_alike(part) for part in key])
    if not isinstance(key, Made):
        return key
    if key.name.endswith(_RANDOM_HASHES):
        return (key.name, _alike(key.args))
    make = _MADE_AGAIN.get(key.name.rpartition(".")[2])
    if make is None:
        raise _UnknownError
    return make(*key.args)


def _numbers(make: Callable[..., Any]) -> Callable[..., Any]:
    def made_again(*args: Any) -> Any:
        if not all(isinstance(one, int | float) for one in args):
            raise _UnknownError
        return make(*args)

    return made_again


def _scalar(dtype: Any, data: Any) -> Any:
    """A number of NumPy has the hash of Python's. Its bytes are a text that is encoded, in the pickles of torch."""
    code = dtype.args[0] if isinstance(dtype, Made) and dtype.args else None
    if code not in _OF_CODE or dtype.order not in ("<", "|") or not isinstance(data, Made):
        raise _UnknownError
    return struct.unpack("<" + _OF_CODE[code], data.args[0].encode("latin1"))[0]


_MADE_AGAIN: dict[str, Callable[..., Any]] = {
    "scalar": _scalar,
    "timedelta": _numbers(datetime.timedelta),
    "complex": _numbers(complex),
    "Size": lambda *args: _alike(args[0] if args else ()),
}
