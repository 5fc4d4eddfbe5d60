"""What TensorBoardLogger takes: its arguments, and the values of metrics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from leyden.arguments import check_arguments, is_int
from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["as_number", "check_logger"]

_OF_THE_LOGGER = ("save_dir", "name", "version", "log_graph", "default_hp_metric", "prefix", "sub_dir")
_OF_THE_WRITER = ("purge_step", "max_queue", "flush_secs", "filename_suffix")


def check_logger(save_dir: Any, name: Any, version: Any, prefix: Any, sub_dir: Any, options: Mapping[str, Any]) -> None:
    """Raise one `MisconfigurationException` that names every argument of a TensorBoardLogger out of range."""
    is_path = isinstance(save_dir, str | os.PathLike)
    on_this_machine = is_path and "://" not in os.fspath(save_dir)
    for option in options:
        if option not in _OF_THE_WRITER:
            raise MisconfigurationException(
                f"TensorBoardLogger({option}={options[option]!r}): there is no such argument, here or of SummaryWriter."
                + did_you_mean(option, [*_OF_THE_LOGGER, *_OF_THE_WRITER])
            )
    check_arguments(
        "TensorBoardLogger",
        ("save_dir", save_dir, on_this_machine, "a folder of this machine; sync it to a store from there"),
        ("name", name, name is None or isinstance(name, str), "a string, or None for no folder of the experiment"),
        (
            *("version", version),
            version is None or (isinstance(version, str) and bool(version)) or (is_int(version) and version >= 0),
            "a number from 0, a folder's name, or None for the next number",
        ),
        ("prefix", prefix, isinstance(prefix, str), "a string"),
        ("sub_dir", sub_dir, sub_dir is None or isinstance(sub_dir, str | os.PathLike), "a folder's name, or None"),
    )


def as_number(name: str, value: Any) -> float:
    """Return what is logged as the metric `name` as a number, a tensor with one element too.

    Example:
        >>> as_number("loss", "low")
        Traceback (most recent call last):
        TypeError: TensorBoardLogger: the metric 'loss' is 'low'; expected a number...
    """
    if not isinstance(value, str):
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            return float(value)
    raise TypeError(
        f"TensorBoardLogger: the metric {name!r} is {value!r:.80}; expected a number, a tensor with one element, or a "
        "dict of them. For text and pictures there are experiment.add_text and experiment.add_image."
    )
