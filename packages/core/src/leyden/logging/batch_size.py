"""How many samples a batch holds: the weight of its values in an epoch's mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor

from leyden.errors import MisconfigurationException

__all__ = ["batch_size_of", "sizes_in"]


def batch_size_of(batch: object, *, check: bool = False) -> tuple[int, tuple[int, ...]]:
    """Return the batch's size, and the other sizes found where `check` is on and its parts disagree.

    The first tensor's ``size(0)`` counts, also when it is nested in lists, dicts or dataclasses. A batch without
    tensors is as long as its first list; one that is neither can't be measured, which is an error that names
    ``batch_size=``.
    """
    if isinstance(batch, Tensor):  # most batches are a tensor or a pair of them
        return (batch.size(0) if batch.ndim else 1), ()
    if not check and isinstance(batch, (list, tuple)) and batch and isinstance(batch[0], Tensor) and batch[0].ndim:
        return batch[0].size(0), ()
    found = tuple(dict.fromkeys(sizes_in(batch) if check else islice(sizes_in(batch), 1)))
    if found:
        return found[0], found[1:]
    return _length(batch), ()


def sizes_in(batch: Any) -> Iterator[int]:
    """Yield ``size(0)`` of each tensor with a first dimension, depth first."""
    if isinstance(batch, Tensor):
        if batch.ndim:
            yield batch.size(0)
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from sizes_in(part)
    elif isinstance(batch, (list, tuple)):
        for part in batch:
            yield from sizes_in(part)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from sizes_in(getattr(batch, field.name))


def _length(batch: Any) -> int:
    """Size of a batch without a tensor that has dimensions."""
    if batch is None or isinstance(batch, (int, float, Tensor)):
        return 1
    if isinstance(batch, Mapping) and batch:
        return _length(next(iter(batch.values())))
    if isinstance(batch, (list, tuple)) and batch:
        return 1 if all(isinstance(part, Tensor) for part in batch) else len(batch)
    raise MisconfigurationException(
        f"The size of a batch of type {type(batch).__name__} can't be told, and self.log needs it to weight the "
        "epoch's mean. Pass it: self.log(..., batch_size=n)."
    )
