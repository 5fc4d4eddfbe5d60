"""What is wrong with callbacks, modules and data modules, said before anything runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakSet

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, with_article
from leyden.hooks.contract import HOOKS, REMOVED_MODULE_METHODS, Hook, hooks_of_callbacks
from leyden.hooks.signatures import fit, takes
from leyden.hooks.spelling import near_miss

__all__ = ["check_callbacks", "check_module", "misfit_message", "overrides"]

_STEPS = ("training_step", "validation_step", "test_step", "predict_step")
_MISSING = object()
_warned_classes: WeakSet[type] = WeakSet()


def check_callbacks(callbacks: Sequence[object], *, known: Sequence[object] = (), where: str = "callbacks=") -> None:
    """Check what stands in `where`; older hooks and signatures give a `DeprecationWarning`.

    Those that are also in `known` were checked before: only their state keys are compared with the others'.

    Raises `MisconfigurationException` for what is no callback, misspelt hooks, hooks that cannot be called or whose
    signature fits no generation, and state keys that two callbacks share.
    """
    checked = [_checked_callback(callback, where) for callback in callbacks]
    checked_before = {id(callback) for callback in known}
    for callback in checked:
        if id(callback) in checked_before:
            continue
        _check_names(callback, Callback, hooks_of_callbacks(older=True))
        for name in hooks_of_callbacks(older=True):
            if overrides(callback, name):
                _check_method(HOOKS[name], callback)
    _check_state_keys(checked)


def check_module(module: object) -> None:
    """Check the hooks of a LightningModule as `check_callbacks` does those of callbacks; to be called when fit begins.

    Raises `MisconfigurationException`, also for methods of the 1.x module that nothing calls any more.
    """
    base = _base(module)
    for name, instead in REMOVED_MODULE_METHODS.items():
        if callable(getattr(type(module), name, None)):
            raise MisconfigurationException(
                f"{type(module).__qualname__}.{name} is never called: it was a method of 1.x. Instead, {instead}."
            )
    own = tuple(name for name, hook in HOOKS.items() if hook.module)
    _check_names(module, base, own)
    for name in own:
        if overrides(module, name):
            _check_method(HOOKS[name], module)


def overrides(owner: object, name: str) -> bool:
    """Tell whether `owner`, a callback or a module, has its own `name`, by its classes or on the instance."""
    own = getattr(type(owner), name, _MISSING)
    if own is not _MISSING and own is not getattr(_base(owner), name, _MISSING):
        return True
    return name in getattr(owner, "__dict__", ())


def misfit_message(hook: Hook, owner: object, method: Callable[..., Any]) -> str:
    """Return what to say of a method whose signature fits no generation."""
    gets = ", ".join(hook.full_arguments(module=not isinstance(owner, Callback)))
    return (
        f"{type(owner).__qualname__}.{hook.name} takes {takes(method)}, but gets ({gets}). "
        f"Give it these arguments, or fewer of them under these names."
    )


def _base(owner: object) -> type:
    if isinstance(owner, Callback):
        return Callback
    from leyden.module import LightningModule

    return LightningModule


def _checked_callback(given: object, where: str) -> Callback:
    if isinstance(given, Callback):
        return given
    if isinstance(given, type) and issubclass(given, Callback):
        raise MisconfigurationException(
            f"{where} holds the class {given.__qualname__}. Give an instance of it: {given.__name__}()."
        )
    raise MisconfigurationException(
        f"{where} holds {given!r:.80}, {with_article(type(given).__qualname__)}; expected instances of leyden.Callback."
    )


def _check_names(owner: object, base: type, hooks: Sequence[str]) -> None:
    """Find methods that were meant to be hooks: an error for a near miss, else a warning, once per class."""
    cls = type(owner)
    first_time = cls not in _warned_classes
    _warned_classes.add(cls)
    for name in sorted(_own_methods(owner, base)):
        if name in hooks:
            continue
        if name in HOOKS:
            receiver = "callbacks" if HOOKS[name].callbacks else "the module"
            if first_time and name.startswith("on_"):
                _warn(UserWarning, f"{cls.__qualname__}.{name} is never called here: it is a hook of {receiver}.")
            continue
        meant = near_miss(name, hooks)
        if name.startswith("on_"):
            if meant is not None:
                raise MisconfigurationException(
                    f"{cls.__qualname__}.{name} is no hook and would never be called. Did you mean {meant!r}? "
                    f"Rename it, or let its name not begin with 'on_'."
                )
            if first_time:
                _warn(UserWarning, f"{cls.__qualname__}.{name} is no hook; it is not called unless by your own code.")
        elif meant is not None and first_time and not overrides(owner, meant):
            # A helper may well be called train_dataloaders, so that this is no error where on_* would be.
            _warn(UserWarning, f"{cls.__qualname__}.{name} is no hook. Did you mean {meant!r}?")


def _own_methods(owner: object, base: type) -> Iterable[str]:
    of_classes = {name for cls in type(owner).__mro__ if not issubclass(base, cls) for name in vars(cls)}
    for name in of_classes | set(vars(owner)):
        if not name.startswith("_") and not hasattr(base, name):
            own = getattr(type(owner), name, None) or vars(owner).get(name)
            if callable(own) and not isinstance(own, type):
                yield name


def _check_method(hook: Hook, owner: object) -> None:
    where = f"{type(owner).__qualname__}.{hook.name}"
    method = getattr(owner, hook.name)
    if not callable(method):
        raise MisconfigurationException(
            f"{where} is {method!r}, which cannot be called, but {hook.name} is a hook. Make it a method, or rename it."
        )
    fitted = fit(hook, method, module=not isinstance(owner, Callback))
    # Steps and shared hooks are bound by the plan; the module's other methods are called with all their arguments.
    if fitted is None or not (fitted.direct or hook.callbacks or hook.name in _STEPS):
        raise MisconfigurationException(misfit_message(hook, owner, method))
    if hook.generation is not None:
        _warn(DeprecationWarning, f"{where} is a hook of {hook.generation}; use {hook.replacement} instead.")
    elif fitted.older is not None:
        _warn(
            DeprecationWarning,
            f"{where} takes {takes(method)}, the signature of {fitted.older.generation}; "
            f"use {fitted.older.replacement} instead.",
        )


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


def _has_state(callback: Callback) -> bool:
    if overrides(callback, "state_dict") or overrides(callback, "load_state_dict"):
        return True
    for name in ("on_save_checkpoint", "on_load_checkpoint"):
        fitted = fit(HOOKS[name], getattr(callback, name)) if overrides(callback, name) else None
        if fitted is not None and fitted.older is not None:
            return True
    return False


def _warn(category: type[Warning], message: str) -> None:
    """Warn at the line of the user's that led here, since Python shows deprecations of the user's own code alone."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "leyden":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
