"""A checkpoint of which every process has a part: plain data in the first, and in each its shares of tensors."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType

from torch import Tensor

from leyden.runtime.shards import mapped_shards

__all__ = ["PLACES", "Shares", "filled", "parted"]

PLACES = "shared_tensors"
"""The key under which the plain part says where shared tensors belong, by their names in the folder."""

Path = tuple[Any, ...]


@dataclass(slots=True)
class Shares:
    """What one process writes of a checkpoint that all write together.

    Attributes:
        plain: everything but the shared tensors; None but in the first process.
        tensors: this process's shares, by name, and tensors that only it has.
        group: the processes that write, as a group that may be used beside training.
        after: `over` of what is written before this, by the same group; gone where that came to nothing.
        over: set when this is written, or has failed.
    """

    plain: dict[str, Any] | None
    tensors: dict[str, Tensor]
    group: Any
    after: ReferenceType[threading.Event] | None = None
    over: threading.Event = field(default_factory=threading.Event)


def parted(checkpoint: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], list[list[Any]]]:
    """Take the shards out of `checkpoint`: return what is left, the shards by name, and path and name of each."""
    names: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    places: list[list[Any]] = []

    def take(path: Path, shard: Tensor) -> None:
        if id(shard) not in names:  # what is shared is written once
            name = ".".join(map(str, path))
            while name in tensors:  # keys may have dots in them
                name += "'"
            names[id(shard)] = name
            tensors[name] = shard
        places.append([list(path), names[id(shard)]])

    plain = mapped_shards(checkpoint, take)
    return plain, tensors, places


def filled(checkpoint: dict[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain part with `tensors`, by name, where they belong; containers on the way to them are copied."""
    places: Sequence[Any] = checkpoint[PLACES]
    made = {key: value for key, value in checkpoint.items() if key != PLACES}
    copied: dict[Path, Any] = {(): made}
    for path, name in places:
        for length in range(1, len(path)):
            key = tuple(path[:length])
            if key not in copied:
                copied[key] = copied[key[:-1]][key[-1]] = copied[key[:-1]][key[-1]].copy()
        copied[tuple(path[:-1])][path[-1]] = tensors[name]
    return made
