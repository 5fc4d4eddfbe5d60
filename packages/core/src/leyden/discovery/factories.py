"""Asking a factory for its callbacks without letting it do harm: within a time, and whatever it raises or returns."""

from __future__ import annotations

import contextvars
import re
import threading
from collections.abc import Callable, Mapping
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from leyden.callback import Callback
from leyden.discovery.found import in_one_line
from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["EndedByItself", "TimeLimit", "inside_a_factory", "made_by", "within"]

T = TypeVar("T")

_VALUE = re.compile(r"[\w.]+\s*:\s*[\w.]+\s*(\[.*\])?\s*")


_inside = contextvars.ContextVar("inside a factory", default=False)


def inside_a_factory() -> bool:
    """Whether a factory is what is running here: a Trainer made by it would ask it again, and so on."""
    return _inside.get()


class EndedByItself(Exception):
    """A call within a time limit raised what ends a process, such as the SystemExit of ``sys.exit``."""


class TimeLimit:
    """Makes calls of which each may take so long; a context manager, at whose end no call is waited for.

    They are made in a thread, since nothing else interrupts a call that hangs in C; in one thread, since its start
    costs more than a call. One that hangs keeps its thread, which does not keep the process, and the next has another.
    Ctrl-C reaches the caller meanwhile.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._calls: SimpleQueue[tuple[Callable[[], Any], str] | None] | None = None
        self._outcomes: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> TimeLimit:
        return self

    def __exit__(self, *error: object) -> None:
        if self._calls is not None:
            self._calls.put(None)
            if self._thread is not None and error[0] is None:
                self._thread.join()  # idle, so at once: nobody who forks afterwards finds a second thread

    def __call__(self, call: Callable[[], T], name: str) -> T:
        """Return what `call` returns, or raise what it raises: a `TimeoutError` where it takes longer.

        What is no `Exception` comes as `EndedByItself`. `name` is the thread's meanwhile.
        """
        if self._calls is None:
            self._calls, self._outcomes = SimpleQueue(), SimpleQueue()
            work = partial(contextvars.copy_context().run, _work, self._calls, self._outcomes)
            self._thread = threading.Thread(target=work, daemon=True)
            self._thread.start()
        self._calls.put((call, name))
        try:
            result, error = self._outcomes.get(timeout=self._timeout_s)
        except Empty:
            self._calls.put(None)  # should it ever come back
            self._calls = None
            raise TimeoutError(f"it took longer than {self._timeout_s:g} s (timeout_s in [discovery])") from None
        if isinstance(error, Exception):
            raise error
        if error is not None:  # raised as it is here, it would end the training
            raise EndedByItself(in_one_line(error)) from error
        return result  # type: ignore[no-any-return]  # it is what `call` returned


def within(timeout_s: float, call: Callable[[], T], name: str) -> T:
    """Make one call with a `TimeLimit`."""
    with TimeLimit(timeout_s) as limited:
        return limited(call, name)


def _work(
    calls: SimpleQueue[tuple[Callable[[], Any], str] | None], outcomes: SimpleQueue[tuple[Any, BaseException | None]]
) -> None:
    _inside.set(True)
    while (given := calls.get()) is not None:
        call, threading.current_thread().name = given
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = call(), None
        except BaseException as error:  # sys.exit and the like would end this thread only, in silence
            outcome = None, error
        outcomes.put(outcome)
        del call, given, outcome


def made_by(entry_point: EntryPoint, settings: Mapping[str, Any] | None) -> list[Callback]:
    """Call a factory and return its callbacks; an error where what it returns is not a list of callbacks.

    `settings` is the mapping it gets, None where the configuration has none for it; a `MisconfigurationException` where
    it has and the factory takes none.
    """
    if _VALUE.fullmatch(entry_point.value) is None:
        raise ValueError(f"{entry_point.value!r} does not name a function; expected `module:function`")
    factory = entry_point.load()
    if not callable(factory):
        raise TypeError(f"it names {factory!r:.80}, which cannot be called; name a function that returns callbacks")
    takes_settings = _takes_one(factory)
    if settings is not None and not takes_settings:
        raise MisconfigurationException(f"the factory {entry_point.value} takes no settings; remove the table.")
    made = factory(dict(settings or {})) if takes_settings else factory()
    return _checked(made)


def _checked(made: object) -> list[Callback]:
    if not isinstance(made, list | tuple):
        if hasattr(made, "close"):  # a generator, a coroutine or a file
            made.close()
        instead = ""
        if isinstance(made, Callback):
            instead = ": return [callback]"
        elif hasattr(made, "__next__"):
            instead = ": return [...] instead of yield, or list(...) around it"
        raise TypeError(f"it returned {made!r:.80}; a factory returns a list of callbacks{instead}")
    for callback in made:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"it returned {callback!r:.80} among its callbacks; each must be an instance of leyden.Callback"
            )
        if not isinstance(callback.state_key, str):
            raise TypeError(f"it returned {callback!r:.80}, whose state_key is {callback.state_key!r}, not a string")
    return list(made)


def _takes_one(factory: Callable[..., Any]) -> bool:
    """Whether a factory takes the mapping of settings: whether one positional argument can be given to it."""
    from inspect import signature

    try:
        signature(factory).bind({})
    except TypeError:
        return False
    except ValueError:  # written in C, with no signature to look at
        return False
    return True
