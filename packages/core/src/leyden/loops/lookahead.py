"""Knowing the last batch of a dataloader that does not know its length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["LookAhead"]

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
