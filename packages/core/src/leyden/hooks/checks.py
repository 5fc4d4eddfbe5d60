"""What is wrong with callbacks, modules and data modules, said before anything runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from weakref import WeakSet

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean, with_article
from leyden.hooks.contract import HOOKS
from leyden.hooks.findings import Examined, findings, overrides
from leyden.hooks.signatures import fit
from leyden.rank_zero import rank_zero_only
from leyden.runtime.strategy import Strategy

__all__ = ["check_callbacks", "check_datamodule", "check_module"]

_warned_classes: WeakSet[type] = WeakSet()


def check_callbacks(
    callbacks: Sequence[object],
    *,
    known: Sequence[object] = (),
    where: str = "callbacks=",
    strategy: Strategy | None = None,
) -> None:
    """Check what stands in `where`; older hooks and signatures give a `DeprecationWarning`.

    Those that are also in `known` were checked before: only what they cannot share with the others is looked at.

    Raises `MisconfigurationException` for what is no callback, misspelt hooks, hooks that cannot be called or whose
    signature fits no generation, state keys that two callbacks share, and those that cannot work beside each other or
    in runs of `strategy`.
    """
    checked = [_checked_callback(callback, where) for callback in callbacks]
    checked_before = {id(callback) for callback in known}
    for callback in checked:
        if id(callback) not in checked_before:
            _check(callback)
    if strategy is not None:
        _check_strategy(checked, strategy)
    _check_conflicts(checked)  # first: a `name`, which the other asks for, would not let them work either
    _check_state_keys(checked)


def check_module(module: object) -> None:
    """Check the hooks of a LightningModule as `check_callbacks` does those of callbacks; to be called when fit begins.

    Raises `MisconfigurationException`, also for methods of the 1.x module that nothing calls any more.
    """
    _check(module)


def check_datamodule(datamodule: object) -> None:
    """Check the hooks of a LightningDataModule as `check_module` does those of a module."""
    _check(datamodule)


def _check(owner: object) -> None:
    """Raise what is wrong with an owner's methods, and warn of what is odd, once per class."""
    cls = type(owner)
    first_time = cls not in _warned_classes
    _warned_classes.add(cls)
    for finding in findings(Examined(cls, owner)):
        if finding.warns is None:
            raise MisconfigurationException(finding.message)
        if first_time or issubclass(finding.warns, DeprecationWarning):
            _warn(finding.warns, finding.message)


def _checked_callback(given: object, where: str) -> Callback:
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) and issubclass(given, Callback):
        raise MisconfigurationException(
            f"{where} holds the class {given.__qualname__}. Give an instance of it: {given.__name__}(...)."
        )
    raise MisconfigurationException(
        f"{where} holds {given!r:.80}, {with_article(type(given).__qualname__)}; expected instances of leyden.Callback."
        + (_how_to_get(given) if isinstance(given, str) else "")
    )


def _how_to_get(name: str) -> str:
    from leyden import callbacks

    if name in callbacks.__all__:
        return f" Write `from leyden.callbacks import {name}`, and give {name}(...)."
    return did_you_mean(name, callbacks.__all__)


def _check_state_keys(callbacks: Sequence[Callback]) -> None:
    by_key: dict[str, Callback] = {}
    for callback in filter(_has_state, callbacks):
        key = callback.state_key
        other = by_key.setdefault(key, callback)
        if other is callback and sum(c is callback for c in callbacks) == 1:
            continue
        cls = type(callback).__qualname__
        raise MisconfigurationException(
            f"Two callbacks keep their state under the key {key!r}, so that a checkpoint can hold only one of them. "
            f"Set the `name` of one ({cls}(...).name = 'second'), or give the class a state_key that tells them apart: "
            f"`return self._generate_state_key(...)` with the arguments in which they differ."
        )


def _check_conflicts(callbacks: Sequence[Callback]) -> None:
    for callback in callbacks:
        if type(callback).conflict_with is Callback.conflict_with:
            continue
        for other in callbacks:
            reason = None if other is callback else callback.conflict_with(other)
            if reason:
                names = f"{type(callback).__qualname__} and {type(other).__qualname__}"
                raise MisconfigurationException(f"{names} cannot work in one trainer: {reason}")


def _check_strategy(callbacks: Sequence[Callback], strategy: Strategy) -> None:
    for callback in callbacks:
        reason = callback.conflict_with_strategy(strategy)
        if reason:
            names = f"{type(callback).__qualname__} cannot work with {type(strategy).__qualname__}"
            raise MisconfigurationException(f"{names}: {reason}")


def _has_state(callback: Callback) -> bool:
    if overrides(callback, "state_dict") or overrides(callback, "load_state_dict"):
        return True
    for name in ("on_save_checkpoint", "on_load_checkpoint"):
        fitted = fit(HOOKS[name], getattr(callback, name)) if overrides(callback, name) else None
        if fitted is not None and fitted.older is not None:
            return True
    return False


def _warn(category: type[Warning], message: str) -> None:
    """Warn in the first process, at the line of the user's that led here.

    Python shows deprecations of the user's own code alone.
    """
    if rank_zero_only.rank != 0:
        return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "leyden":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
