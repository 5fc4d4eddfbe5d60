"""Where two nested values are not the same, bit for bit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["differences", "first_difference", "without_varying"]


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Say where two nested values are not the same; a NaN is the same as a NaN.

    Example:
        >>> list(differences({"a": [1, 2]}, {"a": [1, 3]}))
        ["['a'][1]: 2 is not 3"]
    """
    numpy = sys.modules.get("numpy")
    if type(one) is not type(other):
        yield f"{where}: {one!r:.80} is not {other!r:.80}"
    elif isinstance(one, Tensor):
        if not _equal(one, other):
            digits = 4 if _shown(one, 4) != _shown(other, 4) else 17
            yield f"{where}: {_shown(one, digits)} is not {_shown(other, digits)}"
    elif isinstance(one, Mapping):
        if list(map(str, one)) != list(map(str, other)):
            yield f"{where}: keys {list(one)} are not {list(other)}"
        for key in [key for key in one if key in other]:
            yield from differences(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield f"{where}: {one!r:.200} is not {other!r:.200}"
        for index, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from differences(left, right, f"{where}[{index}]")
    elif numpy is not None and isinstance(one, numpy.ndarray):
        if not numpy.array_equal(one, other):
            yield f"{where}: {one!r:.80} is not {other!r:.80}"
    elif one != other and not (one != one and other != other):
        yield f"{where}: {one!r:.200} is not {other!r:.200}"


def first_difference(one: Any, other: Any) -> str:
    """Return the first difference in one line, "" for none."""
    found = next(differences(one, other), "")
    return " ".join(found.removeprefix(": ").split())


def without_varying(value: Any, varies: Sequence[str]) -> Any:
    """Return nested dicts without the keys that hold one of `varies`, which no two runs have the same.

    Example:
        >>> without_varying({"loss": 1.0, "X": {"seconds": 0.2}}, ["seconds"])
        {'loss': 1.0, 'X': {}}
    """
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if not any(part in str(key) for part in varies)}
        return {key: without_varying(item, varies) for key, item in kept.items()}
    if type(value) in (list, tuple):
        return type(value)(without_varying(item, varies) for item in value)
    return value


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)) and torch.equal(one.isnan(), other.isnan())


def _shown(tensor: Tensor, digits: int) -> str:
    shape = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    some = tensor.detach().flatten()[:3].tolist()
    values = ", ".join(f"{value:.{digits}g}" if isinstance(value, float) else str(value) for value in some)
    return f"{shape} ({values}{', …' if tensor.numel() > 3 else ''})"
