"""The order of callbacks, resolved once: what they declare, then their position, then where they come from."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.errors import MisconfigurationException, did_you_mean

if TYPE_CHECKING:
    from leyden.callback import Callback

__all__ = [
    "LATE_POSITIONS",
    "POSITIONS",
    "SOURCES",
    "Ordered",
    "Placed",
    "declaration_mistakes",
    "late_callbacks",
    "order_callbacks",
]

POSITIONS = ("first", "normal", "monitor", "checkpoint")
LATE_POSITIONS = ("monitor", "checkpoint")
"""Positions that get every ``on_*_epoch_end`` after the module, so that they see what it logs there."""

SOURCES = ("user", "module", "configured", "discovered")


@dataclass(frozen=True, slots=True)
class Placed:
    """A callback and where it comes from: ``"user"``, ``"module"``, ``"configured"`` or ``"discovered"``.

    Attributes:
        distribution: with its version, of one that is discovered or configured.
        where: ``file:line`` of the table that asked for one that is configured.
        when: the entry points in which its hooks are called; None for all.
    """

    callback: Callback
    source: str = "user"
    distribution: str | None = None
    where: str | None = None
    when: tuple[str, ...] | None = None

    @property
    def of_environment(self) -> bool:
        """Whether neither the user nor the module gave it."""
        return self.source in ("discovered", "configured")


@dataclass(frozen=True, slots=True)
class Ordered:
    """A callback in its place, with the reason for that place."""

    placed: Placed
    reason: str

    @property
    def callback(self) -> Callback:
        return self.placed.callback


@dataclass(frozen=True, slots=True)
class _Relation:
    """One declaration that holds between two callbacks, by their indices."""

    before: int
    after: int
    declared_by: int
    word: str

    def sentence(self, callbacks: Sequence[Callback]) -> str:
        other = self.after if self.declared_by == self.before else self.before
        return f"{_label(callbacks[self.declared_by])} {self.word.replace('_', ' ')} {_label(callbacks[other])}"


def order_callbacks(placed: Sequence[Placed]) -> list[Ordered]:
    """Return the callbacks in the order of their calls.

    A declared relation wins over a position, a position over the source (see `SOURCES`), that over the order
    in which they were given. Raises `MisconfigurationException` for relations that form a cycle, which it names.

    Example:
        >>> from leyden.callback import Callback, Checkpoint
        >>> class Timer(Callback):
        ...     runs_before = ("Writer",)
        >>> class Writer(Callback): ...
        >>> given = [Placed(Checkpoint()), Placed(Writer()), Placed(Timer())]
        >>> for ordered in order_callbacks(given):
        ...     print(f"{type(ordered.callback).__name__}: {ordered.reason}")
        Timer: given by the user; runs before Writer
        Writer: given by the user; after Timer, which declares it
        Checkpoint: given by the user; position 'checkpoint'
    """
    callbacks = [p.callback for p in placed]
    relations = _relations(callbacks)
    keys = [(POSITIONS.index(_position(p.callback)), SOURCES.index(p.source), i) for i, p in enumerate(placed)]
    waiting = [{r.before for r in relations if r.after == i} for i in range(len(placed))]
    ready = [key for key, before in zip(keys, waiting, strict=True) if not before]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        current = heapq.heappop(ready)[-1]
        order.append(current)
        for after in {r.after for r in relations if r.before == current}:
            waiting[after].discard(current)
            if not waiting[after]:
                heapq.heappush(ready, keys[after])
    if len(order) < len(placed):
        raise MisconfigurationException(_cycle_message(callbacks, relations, set(range(len(placed))) - set(order)))
    return [Ordered(placed[i], _reason(i, placed, relations)) for i in order]


def late_callbacks(callbacks: Sequence[Callback]) -> list[bool]:
    """Tell of each callback whether it gets ``on_*_epoch_end`` after the module.

    These are the monitors and checkpoints, and whatever is declared to run after one of them.
    """
    late = [callback.position in LATE_POSITIONS for callback in callbacks]
    relations = _relations(callbacks)
    changed = True
    while changed:
        following = {r.after for r in relations if late[r.before] and not late[r.after]}
        for index in following:
            late[index] = True
        changed = bool(following)
    return late


def declaration_mistakes(owner: Any) -> Iterator[str]:
    """Yield what is wrong with what a callback, or a class of them, declares of its place; `order_callbacks` raises it.

    Of a class what only its instances know, such as a property, is left alone.
    """
    for check in (_position, partial(_targets, word="runs_before"), partial(_targets, word="runs_after")):
        try:
            check(owner)
        except MisconfigurationException as error:
            yield str(error)


def _relations(callbacks: Sequence[Callback]) -> list[_Relation]:
    relations = []
    for i, callback in enumerate(callbacks):
        for word in ("runs_before", "runs_after"):
            for target in _targets(callback, word):
                for j, other in enumerate(callbacks):
                    if i != j and _is_meant(target, callback, other):
                        before, after = (i, j) if word == "runs_before" else (j, i)
                        relations.append(_Relation(before, after, i, word))
    return relations


def _targets(callback: Callback, word: str) -> Iterable[type | str]:
    declared: object = getattr(callback, word)
    if isinstance(declared, property):
        return ()
    targets = declared if isinstance(declared, (tuple, list, set, frozenset)) else (declared,)
    for target in targets:
        if not isinstance(target, (type, str)):
            raise MisconfigurationException(
                f"{_label(callback)}.{word} holds {target!r}, which is neither a callback class nor a name. "
                f"Give a tuple of classes, class names or names of callbacks."
            )
    return targets


def _is_meant(target: type | str, declaring: Callback, other: Callback) -> bool:
    if isinstance(target, str) and target == other.name:
        return True
    if type(other) is type(declaring):  # a class that names itself or its base cannot mean each of two before the other
        return False
    if isinstance(target, type):
        return isinstance(other, target)
    return any(target == base.__name__ for base in type(other).__mro__)


def _position(callback: Callback) -> str:
    if callback.position not in POSITIONS and not isinstance(callback.position, property):
        raise MisconfigurationException(
            f"{_label(callback)}.position is {callback.position!r}; expected one of {', '.join(map(repr, POSITIONS))}."
            + did_you_mean(str(callback.position), POSITIONS)
        )
    return callback.position


def _label(callback: Callback) -> str:
    own = f" {callback.name!r}" if isinstance(callback.name, str) else ""
    return f"{(callback if isinstance(callback, type) else type(callback)).__name__}{own}"


def _reason(index: int, placed: Sequence[Placed], relations: Sequence[_Relation]) -> str:
    item = placed[index]
    callbacks = [p.callback for p in placed]
    position = _position(item.callback)
    reasons = [
        {
            "user": "given by the user",
            "module": "from configure_callbacks of the module",
            "configured": f"configured in {item.where}",
        }.get(item.source, f"attached by {item.distribution or 'an entry point'}")
    ]
    if item.when is not None:
        reasons.append(f"in {' and '.join(item.when)} only")
    if position != "normal":
        reasons.append(f"position {position!r}")
    for relation in relations:
        if index not in (relation.before, relation.after):
            continue
        other = callbacks[relation.after if index == relation.before else relation.before]
        side = "before" if index == relation.before else "after"
        declared = relation.declared_by == index
        text = f"runs {side} {_label(other)}" if declared else f"{side} {_label(other)}, which declares it"
        first, second = (_position(callbacks[i]) for i in (relation.before, relation.after))
        if POSITIONS.index(first) > POSITIONS.index(second):
            text += f" (wins over the positions {position!r} here and {_position(other)!r} there)"
        reasons.append(text)
    reasons += _unmet(item.callback, callbacks)
    return "; ".join(dict.fromkeys(reasons))


def _unmet(callback: Callback, callbacks: Sequence[Callback]) -> list[str]:
    """What `callback` declares of callbacks that are not there, with the name that may have been meant."""
    others = [other for other in callbacks if other is not callback]
    names = {base.__name__ for other in others for base in type(other).__mro__[:-1]}
    names |= {other.name for other in others if isinstance(other.name, str)}
    unmet = []
    for word in ("runs_before", "runs_after"):
        for target in _targets(callback, word):
            if isinstance(target, str) and not any(_is_meant(target, callback, other) for other in others):
                guess = did_you_mean(target, names).strip()
                unmet.append(
                    f"{word.replace('_', ' ')} {target!r}, which nobody here is called{f' ({guess})' if guess else ''}"
                )
    return unmet


def _cycle_message(callbacks: Sequence[Callback], relations: Sequence[_Relation], stuck: set[int]) -> str:
    into = {r.after: r for r in relations if r.before in stuck and r.after in stuck}
    path: list[int] = []
    # What waits for the cycle without being in it has a way back into it, so that walking back ends in the cycle.
    current = min(index for index in stuck if index in into)
    while current not in path:
        path.append(current)
        current = into[current].before
    cycle = [into[index] for index in path[path.index(current) :]][::-1]
    names = " -> ".join(_label(callbacks[r.before]) for r in [*cycle, cycle[0]])
    sentences = "; ".join(r.sentence(callbacks) for r in cycle)
    return (
        f"The callbacks cannot be ordered: {names} is a cycle ({sentences}). "
        f"Remove one of these declarations from runs_before / runs_after."
    )
