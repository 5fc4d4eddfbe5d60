"""What a checkpoint may hold without pickle: finding the value that it may not."""

from __future__ import annotations

import datetime
import pathlib
from collections import OrderedDict
from collections.abc import Mapping
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
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.Tensor,
    torch.dtype,
    torch.device,
    torch.Size,
    *SAFE_TYPES,
)


def check_plain(value: Any, where: str) -> None:
    """Refuse a value that a safe load could not read back, naming the path to it inside `value`.

    Plain are: None, numbers, strings, bytes, tensors, dtypes, devices, dates, paths, NumPy scalars and arrays, and
    lists,
    tuples, sets and dicts of these.

    Raises:
        MisconfigurationException: some value inside is not plain.

    Example:
        >>> check_plain({"best": [0.1, object()]}, "the state of EarlyStopping")
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: the state of EarlyStopping['best'][1] is an object, which ...
    """
    if isinstance(value, Mapping) and type(value) in (dict, OrderedDict):
        for key, item in value.items():
            check_plain(key, f"the key {key!r} of {where}")
            check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]")
    elif type(value) not in _LEAVES and not _is_tensor_like(value):
        raise MisconfigurationException(
            f"{where} is an {type(value).__name__}, which a checkpoint cannot hold safely: reading it back would mean "
            "unpickling code. "
            "Store numbers, strings, tensors, dates, paths, and lists or dicts of these instead."
        )


def _is_tensor_like(value: Any) -> bool:
    # NumPy is there when a value is from it; importing it here would make `import leyden` pay.
    return isinstance(value, torch.Tensor) or type(value).__module__ == "numpy"
