"""The callbacks of a trainer: the user's, the module's and those of installed distributions, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex

from leyden.callback import Callback
from leyden.discovery import replaces
from leyden.errors import MisconfigurationException
from leyden.hooks.checks import check_callbacks
from leyden.hooks.ordering import Ordered, Placed, order_callbacks
from leyden.rank_zero import rank_zero_info, rank_zero_warn

__all__ = ["AttachedCallbacks", "CallbackList", "as_list"]


class CallbackList(list[Callback]):
    """A list that reports every change, so that the plan of calls follows it."""

    def __init__(self, callbacks: Iterable[Callback], changed: Callable[[], None]) -> None:
        super().__init__(callbacks)
        self._changed = changed

    def append(self, item: Callback) -> None:
        super().append(item)
        self._changed()

    def extend(self, items: Iterable[Callback]) -> None:
        super().extend(items)
        self._changed()

    def insert(self, index: SupportsIndex, item: Callback) -> None:
        super().insert(index, item)
        self._changed()

    def remove(self, item: Callback) -> None:
        super().remove(item)
        self._changed()

    def pop(self, index: SupportsIndex = -1) -> Callback:
        item = super().pop(index)
        self._changed()
        return item

    def clear(self) -> None:
        super().clear()
        self._changed()

    def sort(self, **how: Any) -> None:
        super().sort(**how)
        self._changed()

    def reverse(self) -> None:
        super().reverse()
        self._changed()

    def __setitem__(self, index: Any, items: Any) -> None:
        super().__setitem__(index, items)
        self._changed()

    def __delitem__(self, index: Any) -> None:
        super().__delitem__(index)
        self._changed()

    def __iadd__(self, items: Iterable[Callback]) -> CallbackList:  # type: ignore[override,misc]  # list's own returns Self
        super().__iadd__(items)
        self._changed()
        return self

    def __reduce__(self) -> tuple[type, tuple[list[Callback]]]:
        return list, (list(self),)  # a copy is a plain list: it belongs to no trainer


class AttachedCallbacks:
    """Keeps callbacks ordered and checked; `changed` is called after each change of the list by its user.

    Attributes:
        ordered: the callbacks in the order of their calls, with the reason for each place.
        list: the same callbacks as users see and change them: ``trainer.callbacks``; one list for the trainer's life.
    """

    def __init__(self, placed: Sequence[Placed], changed: Callable[[], None]) -> None:
        self._changed = changed
        self._replaced: list[Placed] = []
        self._placed: list[Placed] = []
        self.ordered: list[Ordered] = []
        self.list = CallbackList((), self._follow)
        self._arrange(list(placed))

    def take_from_module(self, callbacks: Sequence[Callback]) -> None:
        """Attach what ``configure_callbacks`` returned instead of what an earlier module brought.

        One of the module's replaces the user's callbacks of the same type, and a discovered one of the same role.
        """
        kept = [p for p in self._placed if p.source != "module"] + self._replaced
        replaced = [p for p in kept if _gives_way(p, callbacks)]
        kept = [p for p in kept if not _gives_way(p, callbacks)]
        if callbacks or len(kept) != len(self._placed):
            brought = [Placed(callback, source="module") for callback in callbacks]
            self._arrange([*kept, *brought], where="what configure_callbacks returned")
        known = {id(p.callback) for p in self._replaced} | {id(callback) for callback in callbacks}
        for one in replaced:
            if one.source == "user" and id(one.callback) not in known:
                name = type(one.callback).__name__
                rank_zero_info(f"The {name} of configure_callbacks replaces the one in Trainer(callbacks=...).")
        self._replaced = replaced

    def take_discovered(self, found: Sequence[Placed]) -> None:
        """Attach what installed distributions bring; one that cannot work is left out with a warning."""
        for one in found:
            try:
                self._arrange([*self._placed, one])
            except MisconfigurationException as error:
                rank_zero_warn(
                    f"{type(one.callback).__name__} of {one.distribution or 'an entry point'} is left out: {error}"
                )

    def _arrange(self, placed: list[Placed], where: str = "callbacks=") -> None:
        known = [p.callback for p in self._placed]
        check_callbacks([p.callback for p in placed], known=known, where=where)
        self.ordered = order_callbacks(placed)
        self._placed = placed
        self._show()

    def _show(self) -> None:
        # In place, and not through the list's own method: whoever holds it goes on holding the trainer's list.
        list.__setitem__(self.list, slice(None), [o.callback for o in self.ordered])

    def _follow(self) -> None:
        """The user changed the list: who is new in it came from the user."""
        known = {id(p.callback): p for p in self._placed}
        try:
            self._arrange([known.get(id(callback)) or Placed(callback) for callback in self.list])
        except BaseException:
            self._show()  # the change is undone
            raise
        # What the module's callbacks replaced comes back with another module, unless the user took those out.
        brought = [p.callback for p in self._placed if p.source == "module"]
        self._replaced = [p for p in self._replaced if _gives_way(p, brought)]
        self._changed()


def _gives_way(placed: Placed, to: Sequence[Callback]) -> bool:
    if any(type(callback) is type(placed.callback) for callback in to):
        return True
    return placed.source == "discovered" and any(replaces(callback, placed.callback) for callback in to)


def as_list(given: Any) -> list[Any]:
    """Return what was given as one thing, several or None as a list.

    A string or a class is iterable or callable by accident; the check of callbacks says what is wrong with it.
    """
    if given is None:
        return []
    several = isinstance(given, Iterable) and not isinstance(given, Callback | str | bytes | type)
    return list(given) if several else [given]
