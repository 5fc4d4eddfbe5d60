"""Callbacks that installed distributions attach by themselves.

A distribution registers a function in the entry-point group `leyden.callbacks_factory`; called with nothing, or with
one mapping of settings, it returns a list of callbacks. What the user gave or switched off wins over what is found, and
a factory that fails costs one warning, never the training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback, Checkpoint
from leyden.hooks.ordering import Placed
from leyden.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from leyden.trainer import Trainer

__all__ = ["GROUP", "discover", "discovery_is_on", "installed_factories", "replaces"]

GROUP = "leyden.callbacks_factory"
"""The entry-point group in which a distribution names its factory of callbacks."""


def discovery_is_on() -> bool:
    """Whether the environment lets installed distributions attach callbacks: no where ``LEYDEN_CALLBACKS=off``."""
    return os.environ.get("LEYDEN_CALLBACKS", "").strip().lower() not in {"off", "0", "false", "no"}


def installed_factories() -> list[EntryPoint]:
    """Return the entry points of `GROUP`, sorted by distribution and name, so that every process sees one order."""
    from importlib.metadata import entry_points

    # A distribution can be on sys.path twice, from a wheel and from a checkout: the first is the one imported.
    found: dict[tuple[str, str], EntryPoint] = {}
    for entry_point in entry_points(group=GROUP):
        found.setdefault((_distribution_name(entry_point), entry_point.name), entry_point)
    return [found[key] for key in sorted(found)]


def discover(
    trainer: Trainer,
    given: Sequence[Callback],
    *,
    enable_checkpointing: bool | None = None,
    enable_progress_bar: bool | None = None,
    enable_model_summary: bool | None = None,
) -> list[Placed]:
    """Return what the installed distributions attach to `trainer` beside the callbacks the user has `given`.

    Left out are: a `Checkpoint` where the user gave one or ``enable_checkpointing=False``; a callback whose `role` the
    user switched off (``enable_progress_bar=False``, ``enable_model_summary=False``) or filled with one of their own; a
    callback of which the user gave an instance of the same type and state key; and one whose ``applies(trainer)`` is
    false. Empty where ``LEYDEN_CALLBACKS=off``.
    """
    if not discovery_is_on():
        return []
    switched_off = {
        role
        for role, enabled in (("progress_bar", enable_progress_bar), ("model_summary", enable_model_summary))
        if enabled is False
    }
    placed: list[Placed] = []
    wanted: list[Callback] = []

    def is_wanted(callback: Callback) -> bool:
        if isinstance(callback, Checkpoint) and enable_checkpointing is False:
            return False
        others = [*given, *(one.callback for one in placed), *wanted]
        if callback.role in switched_off or any(replaces(other, callback) for other in others):
            return False
        return callback.applies(trainer)

    for entry_point in installed_factories():
        wanted = []
        try:
            for callback in _made_by(entry_point):
                if is_wanted(callback):
                    wanted.append(callback)
        except Exception as error:  # whatever a factory does wrong, the training goes on without it
            _report(entry_point, error)
            continue
        placed += [Placed(callback, source="discovered", distribution=_describe(entry_point)) for callback in wanted]
    return placed


def _made_by(entry_point: EntryPoint) -> list[Callback]:
    """Call the factory; an error where what it returns is not a list of callbacks."""
    factory = entry_point.load()
    callbacks = factory({}) if _takes_settings(factory) else factory()
    if not isinstance(callbacks, Iterable) or isinstance(callbacks, str | bytes):
        raise TypeError(f"it returned {callbacks!r}; a factory returns a list of callbacks")
    made = list(callbacks)
    for callback in made:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"it returned {callback!r} among its callbacks; each must be an instance of leyden.Callback"
            )
    return made


def _takes_settings(factory: Callable[..., Any]) -> bool:
    """Whether a factory takes the mapping of settings: whether one positional argument can be given to it."""
    from inspect import signature

    try:
        signature(factory).bind({})
    except TypeError:
        return False
    return True


def replaces(other: Callback, callback: Callback) -> bool:
    """Whether `other`, which is attached already, makes `callback` superfluous."""
    if isinstance(callback, Checkpoint):
        return isinstance(other, Checkpoint)
    if callback.role is not None and other.role == callback.role:
        return True
    if type(other) is type(callback):
        return other.state_key == callback.state_key  # two of a kind with keys of their own watch different things
    return isinstance(other, type(callback))


def _report(entry_point: EntryPoint, error: Exception) -> None:
    cause = " ".join(f"{type(error).__name__}: {error}".split())
    rank_zero_warn(
        f"The callbacks of {_describe(entry_point)} are left out: its entry point "
        f"`{entry_point.name} = {entry_point.value}` in the group {GROUP} failed with {cause}"
    )


def _distribution_name(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else "an unnamed distribution"


def _describe(entry_point: EntryPoint) -> str:
    name = _distribution_name(entry_point)
    return f"{name} {entry_point.dist.version}" if entry_point.dist is not None else name
