"""The callbacks of a trainer: the user's, the module's and those of installed distributions, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, SupportsIndex

from leyden.callback import Callback
from leyden.discovery.precedence import replaces, supersedes
from leyden.hooks.checks import check_callbacks
from leyden.hooks.ordering import Ordered, Placed, order_callbacks
from leyden.rank_zero import rank_zero_info
from leyden.runtime.strategy import Strategy

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

    They are those of runs of `strategy`.

    Attributes:
        ordered: the callbacks in the order of their calls, with the reason for each place.
        list: the same callbacks as users see and change them: ``trainer.callbacks``; one list for the trainer's life.
    """

    def __init__(self, placed: Sequence[Placed], changed: Callable[[], None], strategy: Strategy | None = None) -> None:
        self._changed, self._strategy = changed, strategy
        self._own: list[Placed] = []  # the user's and those discovered
        self._brought: list[Placed] = []  # the module's
        self._hidden: list[Placed] = []  # those of one's own that the module's stand in for
        self.ordered: list[Ordered] = []
        self.list = CallbackList((), self._follow)
        self._arrange(list(placed), [], [])

    def take_from_module(self, callbacks: Sequence[Callback]) -> None:
        """Attach what ``configure_callbacks`` returned instead of what an earlier module brought.

        One of the module's stands in for the user's callbacks of the same type, and for a discovered one of its role.
        """
        told = {id(p) for p in self._hidden}
        brought = [Placed(callback, source="module") for callback in callbacks]
        if brought or self._brought:
            hidden = [p for p in self._own if _gives_way(p, brought)]
            self._arrange(self._own, brought, hidden, where="what configure_callbacks returned")
        for own in self._hidden:
            if own.source == "user" and id(own) not in told and not any(own.callback is one for one in callbacks):
                name = type(own.callback).__name__
                rank_zero_info(f"The {name} of configure_callbacks replaces the one in Trainer(callbacks=...).")

    def take_discovered(self, found: Sequence[Placed]) -> list[tuple[Placed, Exception]]:
        """Attach what the environment brings; return what cannot work beside the others, with the reason."""
        try:
            self._arrange([*self._own, *found], self._brought, self._hidden)
            return []
        except Exception:  # one of them cannot work: which, is found one by one
            return [(one, error) for one in found if (error := self._refused(one)) is not None]

    def _refused(self, one: Placed) -> Exception | None:
        """Attach one callback; return what is wrong with it, None for nothing."""
        try:
            self._arrange([*self._own, one], self._brought, self._hidden)
        except Exception as error:
            return error
        return None

    def drop(self, callback: Callback) -> None:
        """Take out a callback that is not to be called again."""
        own = [p for p in self._own if p.callback is not callback]
        self._arrange(own, self._brought, [p for p in self._hidden if p.callback is not callback])

    def of_environment(self, callback: object) -> Placed | None:
        """Return where a callback comes from that the environment attached; None for the user's and the module's."""
        return next((p for p in self._own if p.callback is callback and p.of_environment), None)

    def called_in(self, fn: str | None) -> list[Callback]:
        """Return the callbacks whose hooks are called in an entry point, in order; all of them before the first."""
        when = {id(o.callback): o.placed.when for o in self.ordered}
        return [one for one in self.list if fn is None or (allowed := when[id(one)]) is None or fn in allowed]

    def _arrange(
        self, own: list[Placed], brought: list[Placed], hidden: list[Placed], where: str = "callbacks="
    ) -> None:
        placed = [*(p for p in own if not any(p is one for one in hidden)), *brought]
        known = [p.callback for p in (*self._own, *self._brought)]
        check_callbacks([p.callback for p in placed], known=known, where=where, strategy=self._strategy)
        self.ordered = order_callbacks(placed)
        self._own, self._brought, self._hidden = own, brought, hidden
        self._show()

    def _show(self) -> None:
        # In place, and not through the list's own method: whoever holds it goes on holding the trainer's list.
        list.__setitem__(self.list, slice(None), [o.callback for o in self.ordered])

    def _follow(self) -> None:
        """The user changed the list: who is new in it came from the user."""
        known = {id(p.callback): p for p in (*self._own, *self._brought)}
        try:
            placed = [known.get(id(callback)) or Placed(callback) for callback in self.list]
            brought = [p for p in placed if p.source == "module"]
            # Whom the module's stand in for comes back with another module, unless the stand-in was taken out.
            hidden = [p for p in self._hidden if _gives_way(p, brought)]
            self._arrange([*(p for p in placed if p.source != "module"), *hidden], brought, hidden)
        except BaseException:
            self._show()  # the change is undone
            raise
        self._changed()


def _gives_way(own: Placed, brought: Sequence[Placed]) -> bool:
    """Whether one of the module's callbacks stands in for `own`."""
    if any(type(p.callback) is type(own.callback) for p in brought):
        return True
    superseded = replaces if own.source == "discovered" else supersedes
    return own.of_environment and any(superseded(p.callback, own.callback) for p in brought)


def as_list(given: Any) -> list[Any]:
    """Return what was given as one thing, several or None as a list.

    A string or a class is iterable or callable by accident; the check of callbacks says what is wrong with it.
    """
    if given is None:
        return []
    several = isinstance(given, Iterable) and not isinstance(given, Callback | str | bytes | type)
    return list(given) if several else [given]
