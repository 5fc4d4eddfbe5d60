"""Opening an epoch's batches, and knowing the last of them where the dataloader does not know its length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from leyden.state.rng import collect_rng, restore_rng

if TYPE_CHECKING:
    from leyden.data.sources import TrainSource
    from leyden.profilers import Profiler

__all__ = ["LookAhead", "open_batches"]

_END = object()


class LookAhead:
    """An iterator that reads one item ahead.

    Args:
        place_of: says where the source of the items stands; asked before reading ahead, for sources that count
            themselves and would otherwise be one item on.
        at_end: called when the item that is to be given is found to be the final one, before it is given.

    Attributes:
        exhausted: whether the item last given was the final one.
        rng: the state of the random numbers before the item after that was read.
        place: what `place_of` said when the item last given had been read, None without it; here the source's place
            and its loaders' draws.

    Example:
        >>> ahead = LookAhead(iter("ab"))
        >>> [(item, ahead.exhausted) for item in ahead]
        [('a', False), ('b', True)]
    """

    __slots__ = ("_at_end", "_items", "_next", "_place_of", "exhausted", "place", "rng")

    def __init__(
        self,
        items: Iterator[Any],
        place_of: Callable[[], Any] | None = None,
        at_end: Callable[[], object] | None = None,
    ) -> None:
        self._items = items
        self._place_of = place_of
        self._at_end = at_end
        self.place: Any = None
        self.rng: dict[str, Any] | None = None
        self._next = next(items, _END)
        self.exhausted = self._next is _END

    def __iter__(self) -> LookAhead:
        return self

    def __next__(self) -> Any:
        item = self._next
        if item is _END:
            raise StopIteration
        before = self.place, self.rng
        if self._place_of is not None:
            self.place = self._place_of()
        self.rng = collect_rng()
        try:
            self._next = next(self._items, _END)
            self.exhausted = self._next is _END
            if self.exhausted and self._at_end is not None:
                self._at_end()
        except BaseException:
            self.place, self.rng = before  # the item that was to be given is not
            raise
        return item


def open_batches(
    source: TrainSource,
    resumed: Mapping[str, Any] | None,
    profiler: Profiler | None,
    at_end: Callable[[], object] | None = None,
) -> tuple[Iterator[Any], LookAhead | None]:
    """Return the epoch's batches, from the place `resumed` on, and the look-ahead where the length is unknown.

    That calls `at_end` before it gives the last of them.
    """
    batches: Iterator[Any] = iter(source) if resumed is None else source.resume(resumed)
    if profiler is not None:
        batches = profiler.wrap_iterator("next(train_dataloader)", batches)
    if source.length_known:
        return batches, None
    place_of = (lambda: (source.state_dict(0), source.draws())) if source.counts_itself else None
    before = None if resumed is None else resumed.get("ahead")
    if before is None:
        ahead = LookAhead(batches, place_of, at_end)
    else:  # what is read ahead again draws what it drew then, and leaves the random numbers as they are
        now = collect_rng()
        restore_rng(before)
        ahead = LookAhead(batches, place_of, at_end)
        restore_rng(now)
    return ahead, ahead
