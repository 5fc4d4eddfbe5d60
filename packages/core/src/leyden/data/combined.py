"""Several loaders read as one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from math import inf
from typing import Any, Literal, get_args

from leyden.data.loaders import check_loader, flatten_loaders, loader_length
from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["CombinedLoader"]

Mode = Literal["min_size", "max_size", "max_size_cycle", "sequential"]
_MODES: tuple[str, ...] = get_args(Mode)


class CombinedLoader(Iterable[tuple[Any, int, int]]):
    """Read a nested collection of loaders as one; iterating gives ``(batch, batch_idx, dataloader_idx)``.

    `mode` says how:
    ``"min_size"``: a batch from each, in the shape of the collection, until the shortest ends;
    ``"max_size"``: until the longest ends, None in place of those that have ended;
    ``"max_size_cycle"``: until the longest ends, the others start anew as often as needed;
    ``"sequential"``: one loader after the other, each batch by itself.

    `dataloader_idx` counts the loaders in sequential mode, in which `batch_idx` starts anew for each; it is 0 in the
    others. ``limits`` may hold a largest number of batches for each loader.

    Raises:
        MisconfigurationException: an unknown mode, no loader, or a member that cannot be read.

    Example:
        >>> list(CombinedLoader({"a": range(2), "b": range(10, 13)}, "max_size"))[-1]
        ({'a': None, 'b': 12}, 2, 0)
        >>> list(CombinedLoader([range(2), range(10, 12)], "sequential"))
        [(0, 0, 0), (1, 1, 0), (10, 0, 1), (11, 1, 1)]
    """

    def __init__(self, iterables: Any, mode: Mode = "min_size") -> None:
        if mode not in _MODES:
            raise MisconfigurationException(
                f"CombinedLoader(mode={mode!r}): expected one of {', '.join(map(repr, _MODES))}."
                + did_you_mean(str(mode), _MODES)
            )
        self._iterables = iterables
        self._mode = mode
        self._members, self._rebuild = flatten_loaders(iterables)
        if not self._members:
            raise MisconfigurationException(f"CombinedLoader({iterables!r}) holds no loader. Put one in.")
        for index, member in enumerate(self._members):
            check_loader(member, f"CombinedLoader.flattened[{index}]")
        self._limits: list[int | float | None] | None = None
        self._cursor = _Cursor(len(self._members))
        self._resumes = False

    @property
    def mode(self) -> Mode:
        """How the loaders are read."""
        return self._mode

    @property
    def iterables(self) -> Any:
        """The collection of loaders, in the shape it was given in."""
        return self._iterables

    @property
    def flattened(self) -> list[Any]:
        """The loaders, in order. A list of as many others may be assigned; they take the same places."""
        return list(self._members)

    @flattened.setter
    def flattened(self, members: Sequence[Any]) -> None:
        if len(members) != len(self._members):
            raise ValueError(f"Expected {len(self._members)} loaders, one per place; got {len(members)}.")
        self._members = list(members)
        self._iterables = self._rebuild(self._members)

    @property
    def limits(self) -> list[int | float | None] | None:
        """The largest number of batches of each loader; None (for all or one) means every batch."""
        return self._limits

    @limits.setter
    def limits(self, limits: int | float | Sequence[int | float | None] | None) -> None:
        if isinstance(limits, (int, float)):
            limits = [limits] * len(self._members)
        if limits is not None and len(limits) != len(self._members):
            raise ValueError(f"Expected {len(self._members)} limits, one per loader; got {len(limits)}.")
        self._limits = None if limits is None else list(limits)

    def with_members(self, members: Sequence[Any]) -> CombinedLoader:
        """Return a combination like this one of other loaders; this one when they are the same."""
        if len(members) == len(self._members) and all(a is b for a, b in zip(members, self._members, strict=True)):
            return self
        other = copy.copy(self)
        other.flattened = list(members)
        other._cursor = _Cursor(len(members))
        return other

    def lengths(self) -> list[int | float | None]:
        """Return each loader's number of batches under its limit, None where it is unknown."""
        lengths: list[int | float | None] = []
        for index, member in enumerate(self._members):
            length, limit = loader_length(member), self._limit(index)
            # A limit says nothing sure about an unknown length: the loader may end before it.
            lengths.append(None if length is None else length if limit is None else min(length, limit))
        return lengths

    def __len__(self) -> int:
        lengths = self.lengths()
        known = [int(length) for length in lengths if length is not None]
        if len(known) < len(lengths):
            unknown = type(self._members[lengths.index(None)]).__name__
            raise TypeError(f"A CombinedLoader has no length when a loader in it, here a {unknown}, has none.")
        if self._mode == "min_size":
            return min(known)
        return sum(known) if self._mode == "sequential" else max(known)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        cursor, rounds = self._start()
        if self._mode == "sequential":
            return ((batch, cursor.batch_idx, cursor.member) for batch in rounds)
        return ((batch, batch_idx, 0) for batch_idx, batch in enumerate(rounds))

    def batches(self) -> Iterator[Any]:
        """Iterate over the batches alone."""
        return self._start()[1]

    def _start(self) -> tuple[_Cursor, Iterator[Any]]:
        if not self._resumes:
            self._cursor = _Cursor(len(self._members))
        self._resumes = False
        cursor = self._cursor
        if self._mode == "sequential":
            return cursor, _one_after_the_other(self._starters(), cursor)
        # dict(zip) and list() cost a tenth of a tree_unflatten; nearly all collections are flat.
        rebuild: Callable[[Any], Any] = _flat_rebuild(self._iterables, len(self._members)) or self._rebuild
        if self._mode == "max_size_cycle":
            return cursor, map(rebuild, _cycling(self._starters(), cursor, self._members))
        if self._mode == "max_size":
            return cursor, map(rebuild, _padded(self._starters(), cursor))
        return cursor, map(rebuild, zip(*[start() for start in self._starters()], strict=False))

    def _limit(self, index: int) -> int | float | None:
        return None if self._limits is None else self._limits[index]

    def _starters(self) -> list[Callable[[], Iterator[Any]]]:
        return [_starter(member, self._limit(index)) for index, member in enumerate(self._members)]

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration that was begun last stands, with the states of loaders that have `state_dict`."""
        return {
            "mode": self._mode,
            "cursor": {
                "member": self._cursor.member,
                "batch_idx": self._cursor.batch_idx,
                "exhausted": list(self._cursor.exhausted),
            },
            "members": [member.state_dict() if hasattr(member, "state_dict") else None for member in self._members],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration go on from there. A loader that cannot hold state starts with its first batch."""
        if state["mode"] != self._mode or len(state["members"]) != len(self._members):
            raise ValueError(
                f"The state is of a CombinedLoader with mode {state['mode']!r} and {len(state['members'])} loaders; "
                f"this one has mode {self._mode!r} and {len(self._members)}."
            )
        cursor = state["cursor"]
        for index, (member, member_state) in enumerate(zip(self._members, state["members"], strict=True)):
            # A loader that is not read on must not go on when it is next begun.
            read_on = cursor["member"] == index if self._mode == "sequential" else not cursor["exhausted"][index]
            if (read_on or self._mode == "max_size_cycle") and member_state and hasattr(member, "load_state_dict"):
                member.load_state_dict(member_state)
        self._cursor = _Cursor(len(self._members))
        self._cursor.member = state["cursor"]["member"]
        self._cursor.batch_idx = state["cursor"]["batch_idx"]
        self._cursor.exhausted = list(state["cursor"]["exhausted"])
        self._resumes = True


class _Cursor:
    """Where an iteration stands, as far as the loaders do not know it themselves."""

    def __init__(self, members: int) -> None:
        self.member = 0
        self.batch_idx = -1
        self.exhausted = [False] * members


def _starter(loader: Any, limit: int | float | None) -> Callable[[], Iterator[Any]]:
    start = loader.batches if isinstance(loader, CombinedLoader) else partial(iter, loader)
    if limit is None or limit == inf:
        return start
    return lambda: islice(start(), int(limit))


def _flat_rebuild(iterables: Any, members: int) -> Callable[[Any], Any] | None:
    if len(iterables) == members:  # nested otherwise, or a nested collection of one, which is rebuilt the slow way
        kind = type(iterables)
        if kind in (list, tuple) and not any(type(child) in (list, tuple, dict) for child in iterables):
            return kind
        if kind is dict and not any(type(child) in (list, tuple, dict) for child in iterables.values()):
            keys = tuple(iterables)
            return lambda values: dict(zip(keys, values, strict=True))
    return None


def _one_after_the_other(starters: list[Callable[[], Iterator[Any]]], cursor: _Cursor) -> Iterator[Any]:
    for member in range(cursor.member, len(starters)):
        cursor.member = member
        for batch in starters[member]():
            cursor.batch_idx += 1
            yield batch
        cursor.batch_idx = -1


_ENDED = object()


def _padded(starters: list[Callable[[], Iterator[Any]]], cursor: _Cursor) -> Iterator[list[Any]]:
    exhausted = cursor.exhausted  # kept in the state: a loader that had ended might begin anew when it is resumed
    iterators = [iter(()) if ended else start() for start, ended in zip(starters, exhausted, strict=True)]
    while True:
        batches = [next(iterator, _ENDED) for iterator in iterators]
        exhausted[:] = [batch is _ENDED for batch in batches]
        if all(exhausted):
            return
        yield [None if batch is _ENDED else batch for batch in batches]


def _cycling(starters: list[Callable[[], Iterator[Any]]], cursor: _Cursor, members: list[Any]) -> Iterator[list[Any]]:
    exhausted = cursor.exhausted
    iterators = [start() for start in starters]
    batches: list[Any] = [None] * len(starters)
    while True:
        # First those that have not ended yet: when the last of them ends, none of the others is started for nothing.
        for index, iterator in enumerate(iterators):
            if not exhausted[index]:
                batches[index] = next(iterator, _ENDED)
                exhausted[index] = batches[index] is _ENDED
        if all(exhausted):
            return
        for index, ended in enumerate(exhausted):
            if not ended:
                continue
            if batches[index] is not _ENDED:
                batches[index] = next(iterators[index], _ENDED)
            if batches[index] is _ENDED:
                iterators[index] = starters[index]()
                batches[index] = next(iterators[index], _ENDED)
            if batches[index] is _ENDED:
                raise MisconfigurationException(
                    f"CombinedLoader(mode='max_size_cycle') cannot start loader {index} "
                    f"({type(members[index]).__name__}) anew: it gives no batch. It is empty, or an iterator that can "
                    "be read once only; pass something that can be iterated again, or use another mode."
                )
        yield list(batches)
