"""What a checkpoint may hold without pickle: finding the value that it may not."""

from __future__ import annotations

import datetime
import pathlib
import sys
from collections import Counter, OrderedDict
from typing import Any

import torch

from leyden.errors import MisconfigurationException

__all__ = ["SAFE_TYPES", "check_plain"]

SAFE_TYPES: tuple[type, ...] = (
    datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
    pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath,
)  # fmt: skip
"""Types beyond torch's own list that a safe load accepts."""

_LEAVES = (
    type(None), bool, int, float, complex, str, bytes, bytearray,
    torch.Tensor, torch.nn.Parameter, torch.dtype, torch.device, torch.Size,
    *SAFE_TYPES,
)  # fmt: skip


def check_plain(value: Any, where: str) -> None:
    """Refuse a value that a safe load could not read back, naming the path to it inside `value`.

    Plain are: None, numbers, strings, bytes, tensors, dtypes, devices, dates, paths, NumPy scalars and arrays, and
    lists, tuples, sets and dicts of these. A value of a subclass is not: its class would have to be imported.

    Raises:
        MisconfigurationException: some value inside is not plain.

    Example:
        >>> check_plain({"best": [0.1, object()]}, "the state of EarlyStopping")
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: the state of EarlyStopping['best'][1] is an object, which ...
    """
    kind = type(value)
    if kind in (dict, OrderedDict, Counter):
        for key, item in value.items():
            check_plain(key, f"the key {key!r} of {where}")
            check_plain(item, f"{where}[{key!r}]")
    elif kind in (list, tuple, set):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif kind in (datetime.datetime, datetime.time) and type(value.tzinfo) not in (type(None), datetime.timezone):
        raise MisconfigurationException(
            f"{where} is a {kind.__name__} of the time zone {value.tzinfo}, which a checkpoint cannot hold safely. "
            "Store it in UTC: value.astimezone(datetime.timezone.utc)."
        )
    elif kind not in _LEAVES and not _is_of_torch_or_numpy(value, where):
        raise MisconfigurationException(
            f"{where} is {_article(kind.__name__)} {kind.__name__}, which a checkpoint cannot hold safely: reading it "
            "back would mean running code. Store numbers, strings, tensors, dates, paths, and lists or dicts of these "
            "instead."
        )


def _article(word: str) -> str:
    return "an" if word[:1] in "aeiouAEIOU" else "a"


def _is_of_torch_or_numpy(value: Any, where: str) -> bool:
    if isinstance(value, torch.Tensor):
        return type(value).__module__.partition(".")[0] == "torch"
    numpy = sys.modules.get("numpy")  # a value is of NumPy only where NumPy is imported
    if numpy is None:
        return False
    if isinstance(value, numpy.dtype):
        return bool(value.char != "T")  # NumPy's strings of any length are rebuilt by a function of their own
    if type(value) is numpy.ndarray:
        if value.dtype.char == "O":
            check_plain(value.ravel().tolist(), where)
            return True
        return not value.dtype.hasobject
    return isinstance(value, numpy.generic) and type(value).__module__ == "numpy" and not value.dtype.hasobject
