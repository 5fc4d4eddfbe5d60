"""Asking a factory for its callbacks without letting it do harm: within a time, and whatever it raises or returns."""

from __future__ import annotations

import contextvars
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from leyden.callback import Callback
from leyden.discovery.found import in_one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["EndedByItself", "made_by", "within"]

T = TypeVar("T")

_VALUE = re.compile(r"[\w.]+\s*:\s*[\w.]+\s*(\[.*\])?\s*")


class EndedByItself(Exception):
    """A call within a time limit raised what ends a process, such as the SystemExit of ``sys.exit``."""


def within(timeout_s: float, call: Callable[[], T], name: str) -> T:
    """Return what `call` returns, or raise what it raises; a `TimeoutError` where it takes longer than `timeout_s`.

    What is no `Exception` comes as `EndedByItself`.

    It runs in a thread that nobody waits for at the end of the process, which costs 50 µs: no other way interrupts a
    call that hangs in C. Ctrl-C reaches the caller meanwhile.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []
    context = contextvars.copy_context()

    def work() -> None:
        try:
            outcome.append((context.run(call), None))
        except BaseException as error:  # sys.exit and the like would end this thread only, in silence
            outcome.append((None, error))

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise TimeoutError(f"it took longer than {timeout_s:g} s (timeout_s in [discovery])")
    result, error = outcome[0]
    if isinstance(error, Exception):
        raise error
    if error is not None:  # raised as it is here, it would end the training
        raise EndedByItself(in_one_line(error)) from error
    return result  # type: ignore[return-value]  # without an error it is what `call` returned


def made_by(entry_point: EntryPoint, settings: Mapping[str, Any] | None) -> list[Callback]:
    """Call a factory and return its callbacks; an error where what it returns is not a list of callbacks.

    `settings` is the mapping it gets where it takes one, None where the configuration has none for it.
    """
    if _VALUE.fullmatch(entry_point.value) is None:
        raise ValueError(f"{entry_point.value!r} does not name a function; expected `module:function`")
    factory = entry_point.load()
    if not callable(factory):
        raise TypeError(f"it names {factory!r:.80}, which cannot be called; name a function that returns callbacks")
    takes_settings = _takes_one(factory)
    if settings is not None and not takes_settings:
        raise TypeError("the configuration has settings for it, but it takes none")
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
