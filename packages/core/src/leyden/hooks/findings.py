"""What a callback, module or datamodule has of hooks and what is wrong with them, seen in an instance or in its class.

Nothing is called, and no instance is made of a class: the checks of the Trainer and the command line read the same.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from leyden.callback import Callback
from leyden.hooks.contract import HOOKS, REMOVED_MODULE_METHODS, Hook, hooks_of_callbacks
from leyden.hooks.signatures import Fit, fit, takes
from leyden.hooks.spelling import near_miss

__all__ = ["Examined", "Finding", "Override", "findings", "misfit_message", "overrides", "overrides_of"]

_STEPS = ("training_step", "validation_step", "test_step", "predict_step")
_MISSING = object()
_MADE_BY_INSTANCES = (property, functools.cached_property)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to say of a method; an error unless `warns`. `meant` is the hook whose name it nearly has.

    `mistake` is unset for what may well be meant: a method of one's own, a hook of an older generation.
    """

    name: str
    message: str
    warns: type[Warning] | None = None
    meant: str | None = None
    mistake: bool = True


@dataclass(frozen=True, slots=True)
class Override:
    """A hook that somebody has; `fitted` is None where it cannot be called, or where a property makes it."""

    hook: Hook
    method: object
    fitted: Fit | None

    @property
    def is_property(self) -> bool:
        return isinstance(self.method, _MADE_BY_INSTANCES)


class Examined:
    """Whom to look at: a class, or with `instance` what that has of its own as well.

    Attributes:
        kind: "callback", "datamodule" or "module".
        base: the class whose methods are no overrides.
        hooks: the names of the hooks it may have, in the order of a run.

    Example:
        >>> class Quiet(Callback):
        ...     def on_fit_strat(self, trainer, pl_module): ...
        >>> [finding.meant for finding in findings(Examined(Quiet))]
        ['on_fit_start']
    """

    def __init__(self, cls: type, instance: object | None = None) -> None:
        self.cls, self.instance = cls, instance
        self.base = _base(cls)
        self.kind = {"Callback": "callback", "LightningDataModule": "datamodule"}.get(self.base.__name__, "module")
        self.hooks = (
            hooks_of_callbacks(older=True)
            if self.kind == "callback"
            else tuple(name for name, hook in HOOKS.items() if getattr(hook, self.kind))
        )

    def has(self, name: str) -> bool:
        """Tell whether it has its own `name`, by its classes or on the instance."""
        return _is_own(self.cls, self.base, name) or name in getattr(self.instance, "__dict__", ())

    def method(self, name: str) -> object:
        """Return what a call of `name` would find; of a class alone, bound to nobody, and a property as it is."""
        if self.instance is not None:
            return getattr(self.instance, name)
        found = inspect.getattr_static(self.cls, name)
        bind = getattr(type(found), "__get__", None)
        return found if bind is None or isinstance(found, _MADE_BY_INSTANCES) else bind(found, object(), self.cls)

    def own_methods(self) -> Iterator[str]:
        """Yield the names of public methods that the base does not have."""
        on_instance = getattr(self.instance, "__dict__", {})
        of_classes = {name for cls in self.cls.__mro__ if not issubclass(self.base, cls) for name in vars(cls)}
        for name in of_classes | set(on_instance):
            if not name.startswith("_") and not hasattr(self.base, name):
                own = getattr(self.cls, name, None)
                own = on_instance.get(name) if own is None else own  # not by `or`: a tensor may have no truth value
                if callable(own) and not isinstance(own, type):
                    yield name


def overrides(owner: object, name: str) -> bool:
    """Tell whether `owner`, a callback, module or datamodule, has its own `name`, by its classes or on the instance."""
    cls = type(owner)
    return _is_own(cls, _base(cls), name) or name in getattr(owner, "__dict__", ())


def overrides_of(examined: Examined) -> Iterator[Override]:
    """Yield the hooks that somebody has, in the order of a run."""
    for name in examined.hooks:
        if examined.has(name):
            method = examined.method(name)
            callable_ = callable(method)
            yield Override(HOOKS[name], method, _fitted(HOOKS[name], method, examined) if callable_ else None)


def findings(examined: Examined) -> Iterator[Finding]:
    """Yield what is to be said of somebody's methods, names before signatures."""
    if examined.kind == "module":
        yield from _removed(examined)
    yield from _names(examined, examined.hooks)
    for override in overrides_of(examined):
        yield from _of_override(override, examined)


def misfit_message(hook: Hook, owner: type, method: Callable[..., Any]) -> str:
    """Return what to say of a method of the class `owner` whose signature fits no generation."""
    gets = ", ".join(hook.full_arguments(module=not issubclass(owner, Callback)))
    fix = "Give it these arguments, or fewer of them under these names."
    if not gets:
        fix = "Let it take none."
    elif not _is_bound(hook, _base(owner)):
        fix = "Give it these arguments."
    return f"{owner.__qualname__}.{hook.name} takes {takes(method)}, but gets ({gets}). {fix}"


def _base(cls: type) -> type:
    if issubclass(cls, Callback):
        return Callback
    from leyden.datamodule import LightningDataModule
    from leyden.module import LightningModule

    return LightningDataModule if issubclass(cls, LightningDataModule) else LightningModule


def _is_own(cls: type, base: type, name: str) -> bool:
    own = getattr(cls, name, _MISSING)
    return own is not _MISSING and own is not getattr(base, name, _MISSING)


def _is_bound(hook: Hook, base: type) -> bool:
    """Tell whether the plan binds a method, to what it takes; every other one gets all its arguments, as they are."""
    return base is Callback or (base.__name__ == "LightningModule" and (hook.callbacks or hook.name in _STEPS))


def _fitted(hook: Hook, method: Any, examined: Examined) -> Fit | None:
    """Return how the method is called, None where it cannot be."""
    fitted = fit(hook, method, module=examined.kind != "callback")
    return fitted if fitted is not None and (fitted.direct or _is_bound(hook, examined.base)) else None


def _removed(examined: Examined) -> Iterator[Finding]:
    for name, instead in REMOVED_MODULE_METHODS.items():
        if callable(getattr(examined.cls, name, None)):
            where = f"{examined.cls.__qualname__}.{name}"
            yield Finding(name, f"{where} is never called: it was a method of 1.x. Instead, {instead}.")


def _names(examined: Examined, hooks: Sequence[str]) -> Iterator[Finding]:
    """Find methods that were meant to be hooks: an error for a near miss, else a warning."""
    for name in sorted(examined.own_methods()):
        where, on = f"{examined.cls.__qualname__}.{name}", name.startswith("on_")
        if name in hooks:
            continue
        if name in HOOKS:
            if on:
                message = f"{where} is never called here: it is a hook of {_receivers(HOOKS[name])}."
                yield Finding(name, message, UserWarning, mistake=False)
            continue
        meant = near_miss(name, hooks)
        if on and meant is not None:
            message = (
                f"{where} is no hook and would never be called. Did you mean {meant!r}? "
                f"Rename it, or let its name not begin with 'on_'."
            )
            yield Finding(name, message, meant=meant)
        elif on:
            yield Finding(
                name, f"{where} is no hook; it is not called unless by your own code.", UserWarning, mistake=False
            )
        elif meant is not None and not examined.has(meant):
            # A helper may well be called train_dataloaders, so that this is no error where on_* would be.
            yield Finding(name, f"{where} is no hook. Did you mean {meant!r}?", UserWarning, meant)


def _made_by_a_call(method: object) -> str:
    """Return what a call of `method` makes instead of running it, "" for a plain one."""
    if inspect.iscoroutinefunction(method):
        return "a coroutine (`async def`)"
    return "a generator (`yield`)" if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method) else ""


def _receivers(hook: Hook) -> str:
    who = {"callbacks": hook.callbacks, "the module": hook.module}
    return " and ".join(name for name, receives in who.items() if receives)


def _of_override(override: Override, examined: Examined) -> Iterator[Finding]:
    hook, method, fitted = override.hook, override.method, override.fitted
    where = f"{examined.cls.__qualname__}.{hook.name}"
    if override.is_property:
        return
    if not callable(method):
        message = f"{where} is {method!r}, which cannot be called, but {hook.name} is a hook."
        yield Finding(hook.name, f"{message} Make it a method, or rename it.")
        return
    if fitted is None:
        yield Finding(hook.name, misfit_message(hook, examined.cls, method))
        return
    if hook.callbacks and (kind := _made_by_a_call(method)):
        message = f"{where} is {kind}, so that a call makes one and runs nothing of it: hooks are neither awaited nor"
        yield Finding(hook.name, f"{message} iterated. Make it a plain method.")
        return
    if fitted.disordered:
        message = (
            f"{where} takes {takes(method)}, but gets ({', '.join(fitted.positional)}) in this order. Reorder them."
        )
        yield Finding(hook.name, message, UserWarning)
    if hook.generation is not None:
        message = f"{where} is a hook of {hook.generation}; use {hook.replacement} instead."
        yield Finding(hook.name, message, DeprecationWarning, mistake=False)
    elif fitted.older is not None:
        message = f"{where} takes {takes(method)}, the signature of {fitted.older.generation}"
        yield Finding(
            hook.name, f"{message}; use {fitted.older.replacement} instead.", DeprecationWarning, mistake=False
        )
