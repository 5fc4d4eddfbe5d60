"""What a pickle asks of a safe load, followed before it is done: nothing may hang, crash or take memory without bound.

A safe load calls only functions that torch knows, but with any arguments and any keys. A hundred bytes can ask it for
``bytearray(10**10)``, a deep tuple as a key ends the process, and keys of equal hashes are compared for hours.
"""

from __future__ import annotations

import io
import math
from pickle import UnpicklingError
from typing import IO, Any

from leyden.state.pickled_keys import Made, Name, Table

__all__ = ["check_old_file", "check_pickle"]

_PICKLES_OF_OLD_FILES = 5  # torch before 1.6: a number, a version, the system's, the object, its storages' names
_LONGEST_READ_BYTES = 2**28

_ATOMS = {
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def check_pickle(data: bytes) -> None:
    """Follow one pickle to its end.

    Raises:
        UnpicklingError: it asks for what no saved checkpoint needs.
        ValueError: it is cut short or no pickle; so are `IndexError`, `KeyError`, `TypeError` and `AttributeError`.
    """
    _Follower(len(data)).follow(io.BytesIO(data))


def check_old_file(file: IO[bytes], size: int) -> None:
    """Follow the pickles of a file that torch wrote before 1.6, or those that one of another kind begins with."""
    file.seek(0)
    capped = _Capped(file)
    for _ in range(_PICKLES_OF_OLD_FILES):
        here = file.tell()
        if not file.read(1):
            return
        file.seek(here)
        _Follower(size).follow(capped)


class _Capped:
    """A file whose holes nobody reads into memory at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, count: int) -> bytes:
        if count > _LONGEST_READ_BYTES:
            raise ValueError(f"a text of {count} bytes")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(_LONGEST_READ_BYTES)


class _Follower:
    """The stack of an unpickler that makes nothing."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.left = 2**20 + 16 * size  # of what calls copy

    def follow(self, file: Any) -> None:
        from pickletools import genops  # with 6 ms, when something is loaded

        arg: Any
        for opcode, arg, _ in genops(file):
            name = opcode.name
            if name in _ATOMS:
                self.stack.append(_CONSTANTS.get(name, arg))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[arg] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[arg])
            elif name in _TUPLES:
                self._pack(_TUPLES[name])
            else:
                self._step(name, arg, opcode.code)

    def _step(self, name: str, arg: Any, code: str) -> None:
        stack = self.stack
        if name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name == "TUPLE":
            self.stack = self.outer.pop()
            self.stack.append(tuple(stack))
        elif name == "GLOBAL":
            stack.append(Name(arg.replace(" ", ".")))
        elif name in ("REDUCE", "NEWOBJ"):
            args = stack.pop()
            stack.append(self._call(stack.pop(), args))
        elif name == "BUILD":
            self._build(stack.pop())
        elif name == "BINPERSID":
            of_module = isinstance(stack[-1], tuple) and stack[-1][:1] == ("module",)  # in old files, with its class
            stack[-1] = stack[-1][1] if of_module else Made("", (), 0)
        elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append([] if name == "EMPTY_LIST" else Table())
        elif name in ("APPEND", "SETITEM"):
            items = [stack.pop() for _ in range(1 if name == "APPEND" else 2)][::-1]
            self._fill(items)
        elif name in ("APPENDS", "SETITEMS"):
            self.stack = self.outer.pop()
            self._fill(stack)
        elif name not in ("PROTO", "STOP"):  # torch says the same
            raise UnpicklingError(f"Unsupported operand {ord(code)}")

    def _pack(self, count: int) -> None:
        start = len(self.stack) - count
        if start < 0:
            raise IndexError("a tuple of more than there is")
        self.stack[start:] = [tuple(self.stack[start:])]

    def _fill(self, items: list[Any]) -> None:
        """Append to a list, or take keys and values in turn into a dict."""
        into = self.stack[-1]
        if isinstance(into, list):
            into.extend(items)
            return
        if isinstance(into, Made):  # of a class that torch refuses, or knows as a dict
            into.table = into.table or Table()
            into = into.table
        for key in items[::2]:
            into.add(key)

    def _call(self, called: Any, args: Any) -> Any:
        if isinstance(called, Made) and isinstance(args, tuple):  # as of a method: torch refuses how it was got at
            return Made("", args, 0)
        if not isinstance(called, Name) or not isinstance(args, tuple):
            raise UnpicklingError("a call of what is no function")
        name = called.name.rpartition(".")[2]
        if name == "_rebuild_from_type_v2":  # which calls its first argument
            self._call(args[0], args[2])
        if not _is_harmless(called.name, name, args):
            raise UnpicklingError(f"{called.name}{_short(args)}, of a kind that no checkpoint needs")
        weight = sum(map(_weight, args))
        self._spend(weight)
        if name in ("set", "Counter", "OrderedDict"):
            made = Table()
            for key in args[0] if args and isinstance(args[0], list | tuple) else ():
                made.add(key if name == "set" or not isinstance(key, list | tuple) else key[0])
            return made
        return Made(called.name, args, weight)

    def _build(self, state: Any) -> None:
        """NumPy takes memory for a list of objects before it looks how many there are."""
        made = self.stack[-1]
        parts = state if isinstance(state, tuple) else ()
        self._spend(sum(map(_weight, parts)))
        if isinstance(made, Made) and made.name.endswith("dtype") and len(parts) > 1:
            made.order = parts[1]
        if isinstance(made, Made) and made.name.endswith("_reconstruct") and isinstance(parts[-1], list):
            _, shape, dtype, *_ = parts
            if math.prod(shape) != len(parts[-1]) or not (isinstance(dtype, Made) and dtype.args[0] in ("O8", "O4")):
                raise UnpicklingError("a NumPy array of another size than its objects")

    def _spend(self, weight: int) -> None:
        self.left -= weight
        if self.left < 0:
            raise UnpicklingError("calls that copy the same data again and again")


def _is_harmless(path: str, name: str, args: tuple[Any, ...]) -> bool:
    """Whether the call takes no more memory than its arguments have."""
    if name in ("bytes", "ndarray") or (path.startswith("torch") and name.endswith(("Tensor", "Storage"))):
        return args == ()
    if name == "bytearray":
        return args == () or isinstance(args[0], str | bytes | Made)
    if name == "encode":  # other codecs than this make text longer, each time
        return args[1:] in (("latin1",), ("latin-1",))
    if name == "_reconstruct":
        return len(args) == 3 and args[1] == (0,)
    if name == "scalar":
        return len(args) == 2
    return not name.startswith("_rebuild_device_tensor")  # copies a tensor that may be one number, expanded


def _weight(value: Any) -> int:
    """How many bytes a call may copy of it, about."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return 16 * len(value)
    if isinstance(value, Made):
        return value.weight
    return 16 * value.count if isinstance(value, Table) else 0


def _short(args: tuple[Any, ...]) -> str:
    """The first argument, where it is a number."""
    return f"({args[0]})" if args and type(args[0]) is int and args[0].bit_length() < 64 else ""
