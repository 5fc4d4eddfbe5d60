"""The callbacks of a trainer: the user's, the module's and those of installed distributions, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex

from leyden.callback import Callback
from leyden.hooks.checks import check_callbacks
from leyden.hooks.ordering import Ordered, Placed, order_callbacks

__all__ = ["AttachedCallbacks", "CallbackList"]


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
    """Keeps callbacks ordered and checked; `changed` is called after each change of the list.

    Attributes:
        ordered: the callbacks in the order of their calls, with the reason for each place.
        list: the same callbacks as users see and change them: ``trainer.callbacks``.
    """

    def __init__(self, placed: Sequence[Placed], changed: Callable[[], None]) -> None:
        self._changed = changed
        self._from_module: list[Placed] = []
        self._replaced: list[Placed] = []
        self._placed: list[Placed] = []
        self._arrange(list(placed))

    def take_from_module(self, callbacks: Sequence[Callback]) -> None:
        """Attach what ``configure_callbacks`` returned instead of what an earlier module brought.

        One of the module's replaces the user's callbacks of the same type.
        """
        kept = [p for p in self._placed if p.source != "module"] + self._replaced
        types = {type(callback) for callback in callbacks}
        self._replaced = [p for p in kept if type(p.callback) in types]
        kept = [p for p in kept if type(p.callback) not in types]
        if callbacks or len(kept) != len(self._placed):
            self._arrange([*kept, *(Placed(callback, source="module") for callback in callbacks)])

    def _arrange(self, placed: list[Placed]) -> None:
        check_callbacks([p.callback for p in placed])
        self.ordered: list[Ordered] = order_callbacks(placed)
        self._placed = placed
        self.list = CallbackList([o.callback for o in self.ordered], self._follow)

    def _follow(self) -> None:
        """The user changed the list: who is new in it came from the user."""
        known = {id(p.callback): p for p in self._placed}
        view, wanted = self.list, list(self.list)
        self._arrange([known.get(id(callback)) or Placed(callback) for callback in wanted])
        # Whoever holds the list the user changed goes on holding the trainer's list.
        list.__init__(view, self.list)
        self.list = view
        self._changed()
