"""Opening an epoch's batches, and knowing the last of them where the dataloader does not know its length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.data.sources import TrainSource
    from leyden.profilers import Profiler

__all__ = ["LookAhead", "open_batches"]

_END = object()


class LookAhead:
    """An iterator that reads one item ahead.

    Attributes:
        exhausted: whether the item last given was the final one.

    Example:
        >>> ahead = LookAhead(iter("ab"))
        >>> [(item, ahead.exhausted) for item in ahead]
        [('a', False), ('b', True)]
    """

    __slots__ = ("_items", "_next", "exhausted")

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._next = next(items, _END)
        self.exhausted = self._next is _END

    def __iter__(self) -> LookAhead:
        return self

    def __next__(self) -> Any:
        item = self._next
        if item is _END:
            raise StopIteration
        self._next = next(self._items, _END)
        self.exhausted = self._next is _END
        return item


def open_batches(source: TrainSource, skip: int, profiler: Profiler | None) -> tuple[Iterator[Any], LookAhead | None]:
    """Return the epoch's batches without the first `skip`, and the look-ahead where the length is unknown."""
    batches: Iterator[Any] = iter(source)
    for _ in range(skip):
        next(batches, None)
    if profiler is not None:
        batches = profiler.wrap_iterator("next(train_dataloader)", batches)
    if source.length_known:
        return batches, None
    ahead = LookAhead(batches)
    return ahead, ahead
