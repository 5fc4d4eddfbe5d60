"""Fits a method to a generation of its hook, once; the only place where signatures are inspected."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from leyden.hooks.contract import CALLER, Hook, OlderSignature

__all__ = ["Fit", "fit", "takes"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a method is called: contract names by position and by keyword, and the generation that passes them.

    `direct` is set where the method can be called with whatever the 2.x generation passes, so that nothing stands
    between the plan and the method. `disordered` is set where it names what it gets in another order than it gets it,
    such as ``(batch_idx, batch)``.
    """

    positional: tuple[str, ...]
    keywords: tuple[str, ...] = ()
    older: OlderSignature | None = None
    direct: bool = False
    disordered: bool = False


_known: WeakKeyDictionary[FunctionType, dict[tuple[str, bool], Fit | None]] = WeakKeyDictionary()
"""What was found of functions that are methods: a signature takes 20 us to inspect, and a Trainer asks for hundreds."""


class _Parameters:
    """A method's parameters, sorted by kind."""

    def __init__(self, method: Callable[..., Any]) -> None:
        try:
            found = list(inspect.signature(method).parameters.values())
        except (TypeError, ValueError):  # a callable without a signature, such as one written in C: it takes what comes
            found = [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]
        kinds = {p.kind for p in found}
        self.any_positional = inspect.Parameter.VAR_POSITIONAL in kinds
        self.any_keyword = inspect.Parameter.VAR_KEYWORD in kinds
        self.names = tuple(p.name for p in found if p.kind in _POSITIONAL)
        self.required = sum(p.default is p.empty for p in found if p.kind in _POSITIONAL)
        keyword_only = [p for p in found if p.kind is p.KEYWORD_ONLY]
        self.keyword_only = tuple(p.name for p in keyword_only)
        self.keyword_required = tuple(p.name for p in keyword_only if p.default is p.empty)

    def accepts(self, count: int) -> bool:
        return self.required <= count and (self.any_positional or count <= len(self.names))

    def fit_by_position(self, arguments: tuple[str, ...], optional: int = 0, spare: int = 0) -> Fit | None:
        """Fit the arguments in their order, the last `spare` of them only as far as the method takes them."""
        if not set(self.keyword_required) <= set(arguments):
            return None
        keywords = tuple(name for name in arguments if name in self.keyword_only)
        ordered = tuple(name for name in arguments if name not in keywords)
        for left_out in range(spare + 1):
            count = len(ordered) - left_out
            if self.accepts(count):
                # What the loops may leave out the method must be able to miss, else something stands between them.
                direct = not keywords and left_out == 0 and self.accepts(count - optional)
                return Fit(ordered[:count], keywords, None, direct, self.disorders(ordered[:count]))
        if self.any_keyword and self.required <= len(ordered) and len(self.names) < len(ordered):
            by_name = set(self.names) <= set(arguments)
            first = self.names if by_name else ordered[: len(self.names)]
            return Fit(first, tuple(name for name in arguments if name not in first))
        return None

    def disorders(self, given: tuple[str, ...]) -> bool:
        return any(own != name and own in given for own, name in zip(self.names, given, strict=False))

    def fit_by_name(self, arguments: tuple[str, ...]) -> Fit | None:
        """Fit fewer parameters than there are arguments, where every one has the name of an argument."""
        wanted = set(self.names) | set(self.keyword_required)
        if self.any_positional or len(self.names) >= len(arguments) or not wanted <= set(arguments):
            return None
        return Fit(self.names, tuple(name for name in arguments if name in self.keyword_only))


def _generations(hook: Hook, *, module: bool) -> Iterator[tuple[tuple[str, ...], OlderSignature | None]]:
    yield hook.full_arguments(module=module), None
    for older in hook.older:
        if not module:
            yield older.arguments, older
        elif older.module:
            yield older.arguments[len(CALLER) :], older


def fit(hook: Hook, method: Callable[..., Any], *, module: bool = False) -> Fit | None:
    """Return how `method` (bound) is called for `hook`, or None when it fits no generation.

    Today's signature wins where several fit. A method with as many positional parameters as a generation has arguments
    is called by position, whatever its names; one with fewer gets those it names.
    """
    function = getattr(method, "__func__", None)
    if type(function) is not FunctionType:
        return _fit(hook, method, module)
    known = _known.setdefault(function, {})
    key = (hook.name, module)
    if key not in known:
        known[key] = _fit(hook, method, module)
    return known[key]


def _fit(hook: Hook, method: Callable[..., Any], module: bool) -> Fit | None:
    parameters = _Parameters(method)
    generations = list(_generations(hook, module=module))
    for arguments, older in generations:
        told = older is not None and len(parameters.names) == len(arguments)
        if older is not None and told and parameters.names[-1:] and parameters.names[-1] in older.told_by:
            return Fit(arguments, older=older)
    for arguments, older in generations:
        if older is not None and older.told_by:
            continue
        limits = (0, 0) if older else (hook.optional, hook.spare)
        found = parameters.fit_by_position(arguments, *limits)
        if found is not None:
            return found if older is None else Fit(found.positional, found.keywords, older)
    for arguments, older in generations:
        found = parameters.fit_by_name(arguments)
        if found is not None:
            return found if older is None else Fit(found.positional, found.keywords, older)
    return None


def takes(method: Callable[..., Any]) -> str:
    """Return a method's parameters as it declares them, for messages.

    Example:
        >>> def on_fit_start(trainer, when="now"): ...
        >>> takes(on_fit_start)
        '(trainer, when)'
    """
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return "(...)"
    prefix: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return f"({', '.join(prefix.get(p.kind, '') + p.name for p in parameters)})"
