"""What a checkpoint holds, in words and numbers: for people who look into one, and for tools."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from reprlib import Repr
from typing import Any

from torch import Tensor

from leyden.state.lightning_format import LIGHTNING_VERSION_KEY

__all__ = ["describe"]

_SHORT = (str, int, float, bool, type(None))


def describe(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `checkpoint` holds, as data for JSON; of tensors shape, dtype and size in bytes.

    Values may be on the "meta" device: none of them is read.

    Example:
        >>> import torch
        >>> described = describe({"epoch": 2, "state_dict": {"weight": torch.zeros(2, 3)}})
        >>> described["epoch"], described["weights"]
        (2, [{'name': 'weight', 'shape': [2, 3], 'dtype': 'float32', 'bytes': 24}])
    """
    versions = _mapping(checkpoint.get("callback_versions"))
    return {
        "written_by": _writer(checkpoint),
        "format_version": _plain(checkpoint.get("format_version")),
        "epoch": _plain(checkpoint.get("epoch")),
        "global_step": _plain(checkpoint.get("global_step")),
        "entries": [
            {"key": _text(key), "type": type(value).__name__, "tensors": len(tensors := list(_tensors(value))),
             "bytes": sum(map(_bytes, tensors))}
            for key, value in checkpoint.items()
        ],
        "progress": {
            _text(name): _plain(value)
            for name, value in _mapping(_mapping(checkpoint.get("loops")).get("fit_loop")).items()
            if isinstance(value, _SHORT)
        },
        "weights": [
            {"name": _text(name), "shape": list(value.shape), "dtype": _dtype(value), "bytes": _bytes(value)}
            for name, value in _mapping(checkpoint.get("state_dict")).items()
            if isinstance(value, Tensor)
        ],
        "callbacks": [
            {"key": _name(key), "version": _plain(versions.get(key, 1)), "holds": list(map(_text, _mapping(state)))}
            for key, state in _mapping(checkpoint.get("callbacks")).items()
        ],
        "hyper_parameters": {
            _text(name): _plain(value)
            for name, value in _mapping(checkpoint.get("hyper_parameters")).items()
        },
    }  # fmt: skip


def _writer(checkpoint: Mapping[str, Any]) -> str | None:
    for key, name in (("leyden_version", "Leyden"), (LIGHTNING_VERSION_KEY, "Lightning")):
        if key in checkpoint:
            return f"{name} {_text(checkpoint[key])}"
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in `value`, however deep, without recursion, which a file could drive too far."""
    waiting, seen = [value], set[int]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, Mapping | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            waiting.extend(one.values() if isinstance(one, Mapping) else one)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _name(key: object) -> str:
    return key.__qualname__ if isinstance(key, type) else _text(key)


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(_plain(value))


def _plain(value: Any) -> Any:
    """Return a value that JSON has, of a length that can be printed."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, _SHORT) else f"{_BRIEF.repr(value):.80}"


class _Brief(Repr):
    """`repr` in little time: lists that share lists, and lists in lists in lists, are endless in full."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 80, 80

    def repr_instance(self, x: Any, level: int) -> str:
        return type(x).__name__ if isinstance(x, Collection) else super().repr_instance(x, level)


_BRIEF = _Brief()


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
