"""The plan: one ready call per hook, bound to trainer and module, with only those in it that override the hook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from leyden.callback import Callback, attach
from leyden.errors import MisconfigurationException
from leyden.hooks.binding import Call, Source, bind
from leyden.hooks.contract import HOOKS, Hook
from leyden.hooks.findings import misfit_message, overrides
from leyden.hooks.ordering import late_callbacks
from leyden.hooks.signatures import Fit, fit

if TYPE_CHECKING:
    from leyden.module import LightningModule

__all__ = ["Entry", "HookContext", "Plan", "Wrap", "call_init_hooks"]

Wrap: TypeAlias = Callable[[object, str, Call], Call]
"""Wraps a call when the plan is compiled: gets the owner, the hook's name and the call, returns the call to make."""


class HookContext(Protocol):
    """Where the plan says which hook is running: the journal, which needs it for `self.log`."""

    hook: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One owner's call of a hook: takes the 2.x arguments without trainer and module, returns what the method does."""

    owner: object
    call: Call


class Plan:
    """One attribute per hook that callbacks have: what the loop calls, or None where nobody overrides it.

    Example:
        >>> from types import SimpleNamespace
        >>> from leyden.callback import LambdaCallback
        >>> plan = Plan(SimpleNamespace(hook=""))
        >>> plan.compile("the trainer", None, [LambdaCallback(on_fit_start=lambda trainer, module: print(trainer))])
        >>> plan.on_fit_start()
        the trainer
        >>> plan.on_fit_end is None
        True
    """

    wants_train_outputs: bool
    wants_predict_outputs: bool
    module_on_train_batch_start: Call | None

    if TYPE_CHECKING:  # the attributes come from the contract, which alone lists the hooks

        def __getattr__(self, name: str) -> Callable[..., None] | None: ...

    def __init__(self, journal: HookContext) -> None:
        self._journal = journal
        self._owners: tuple[object, ...] = ()
        self._calls: dict[str, list[tuple[object, Call]]] = {}
        self._after: list[Callable[[], object]] = []
        self.train_outputs: list[list[Any]] = []
        self.predict_outputs: list[list[Any]] = []
        self._publish()

    def compile(
        self,
        trainer: object,
        module: LightningModule | None,
        callbacks: Sequence[Callback],
        *,
        wrap: Wrap | None = None,
        meetings: Mapping[str, tuple[Call, Call | None]] = MappingProxyType({}),
    ) -> None:
        """Make the calls anew, in place: who holds the plan sees the change.

        `callbacks` stand in the order of their calls. `meetings` are calls for all processes, by hook: one before all
        others, and one behind the module, before callbacks that come behind it.

        Raises:
            MisconfigurationException: a hook has a signature of no generation.
        """
        late = late_callbacks(callbacks)
        early_first = [c for c, is_late in zip(callbacks, late, strict=True) if not is_late]
        after_module = [c for c, is_late in zip(callbacks, late, strict=True) if is_late]
        in_order = [*callbacks, *([] if module is None else [module])]
        at_epoch_end = [*early_first, *([] if module is None else [module]), *after_module]
        binder = _Binder(self, trainer, module, wrap)
        calls: dict[str, list[tuple[object, Call]]] = {}
        for hook in HOOKS.values():
            if not hook.callbacks or hook.name.startswith("on_init_"):
                continue
            first, behind_module = meetings.get(hook.name, (None, None))
            if first is not None:
                calls[hook.name] = [(self._journal, first)]
            for owner in at_epoch_end if hook.name.endswith("epoch_end") else in_order:
                if (owner is not module or hook.module) and overrides(owner, hook.name):
                    group, call = binder.bound(hook, owner)
                    calls.setdefault(group, []).append((owner, call))
            if behind_module is not None:
                late_ones = [one for one in calls[hook.name] if any(one[0] is callback for callback in after_module)]
                calls[hook.name].insert(len(calls[hook.name]) - len(late_ones), (self._journal, behind_module))
        for callback in callbacks:
            attach(callback, trainer)
        self._owners = tuple(in_order)
        self._calls = calls
        self.wants_train_outputs, self.wants_predict_outputs = binder.wants_train, binder.wants_predict
        self._publish()

    def entries(self, hook: str) -> tuple[Entry, ...]:
        """Return the calls of a hook one by one, for those that must all be reached or whose values are kept."""
        return tuple(
            Entry(owner, partial(_call_one, self._journal, hook, owner, call))
            for owner, call in self._calls.get(hook, ())
        )

    def when_done(self, call: Callable[[], object]) -> None:
        """Call `call` when everyone has had the hook that is running, at once where none of the ``on_…_end`` is.

        A checkpoint made then holds what callbacks and module did in that hook, and whoever goes on from it is not
        given the hook again. Where one of them raises, it is not made at all.
        """
        if self._journal.hook.endswith("_end") and getattr(self, self._journal.hook, None) is not None:
            self._after.append(call)
        else:
            call()

    @property
    def waiting(self) -> list[Callable[[], object]]:
        """The calls that `when_done` puts off; one list for the plan's life."""
        return self._after

    def when_next_done(self, call: Callable[[], object]) -> None:
        """Call `call`, before all others that wait, when everyone has had the hook that is called next."""
        self._after.insert(0, call)

    def owners(self) -> tuple[object, ...]:
        """Return the callbacks in order, then the module."""
        return self._owners

    def _publish(self) -> None:
        self.module_on_train_batch_start = None
        for hook in HOOKS.values():
            if hook.callbacks and not hook.stands_at:
                calls = self._calls.get(hook.name, [])
                if hook.name == "on_train_batch_start" and calls and not isinstance(calls[-1][0], Callback):
                    self.module_on_train_batch_start = partial(_call_one, self._journal, hook.name, *calls[-1])
                    calls = calls[:-1]
                setattr(self, hook.name, _runner(self._journal, hook.name, calls, self._after))
        for hook in HOOKS.values():
            older = _runner(self._journal, hook.name, self._calls.get(hook.name, []), self._after)
            if older is None:
                continue
            for name in hook.stands_at:
                run = getattr(self, name)
                if run is not None and hook.name.endswith("_end"):  # what waits, waits for both
                    both = [_runner(self._journal, one, self._calls[one], []) for one in (name, hook.name)]
                    setattr(self, name, _older_last(self._journal, name, (both[0], both[1]), self._after))
                else:
                    setattr(self, name, _older_first(older, run))


class _Binder:
    """Binds the methods of one compilation, and learns what they want kept for them."""

    def __init__(self, plan: Plan, trainer: object, module: LightningModule | None, wrap: Wrap | None) -> None:
        self._plan, self._trainer, self._module, self._wrap = plan, trainer, module, wrap
        self.wants_train = self.wants_predict = False

    def bound(self, hook: Hook, owner: object) -> tuple[str, Call]:
        """Return the group a method's call belongs to (the hook's name but for a few older signatures) and the call."""
        of_module = owner is self._module
        method = getattr(owner, hook.name)
        fitted = fit(hook, method, module=of_module)
        if fitted is None:
            raise MisconfigurationException(misfit_message(hook, type(owner), method))
        caller = None if of_module else (self._trainer, self._module)
        call = bind(hook, method, fitted, caller, self._sources(hook, fitted))
        group = hook.name if fitted.older is None else fitted.older.handed_to or hook.name
        return group, call if self._wrap is None else self._wrap(owner, hook.name, call)

    def _sources(self, hook: Hook, fitted: Fit) -> dict[str, Source]:
        plan = self._plan
        sources: dict[str, Source] = {"dataloader_idx": lambda args: 0, "opt_idx": self._index_of_optimizer}
        if fitted.older is not None and hook.name == "on_train_epoch_end":
            self.wants_train = True
            sources["outputs"] = lambda args: plan.train_outputs
        elif fitted.older is not None and hook.name == "on_predict_epoch_end":
            self.wants_predict = True
            sources["outputs"] = lambda args: plan.predict_outputs
        return sources

    def _index_of_optimizer(self, args: tuple[Any, ...]) -> int:
        given = (args[0], getattr(args[0], "optimizer", None))  # manual optimisation hands out wrappers
        optimizers: Sequence[object] = self._trainer.optimizers  # type: ignore[attr-defined]  # any trainer has them
        return next((i for i, optimizer in enumerate(optimizers) if any(optimizer is one for one in given)), 0)


def call_init_hooks(callbacks: Sequence[Callback], name: str, trainer: object, *, wrap: Wrap | None = None) -> None:
    """Call ``on_init_start`` or ``on_init_end``, hooks of 1.9 and before, on those that have it."""
    for callback in callbacks:
        if overrides(callback, name):
            method = getattr(callback, name)
            fitted = fit(HOOKS[name], method)
            if fitted is None:
                raise MisconfigurationException(misfit_message(HOOKS[name], type(callback), method))
            call = bind(HOOKS[name], method, fitted, None, {})
            try:
                (call if wrap is None else wrap(callback, name, call))(trainer)
            except BaseException as error:
                _note(error, callback, name)
                raise


def _runner(
    journal: HookContext, name: str, calls: Sequence[tuple[object, Call]], after: list[Callable[[], object]]
) -> Callable[..., None] | None:
    """Return what the loop calls. Measured: 0.12 µs for it and 0.07 µs per call of a method that does nothing."""
    if not calls:
        return None
    ready = tuple(call for _, call in calls)

    def run(*args: Any) -> None:
        outer = journal.hook
        journal.hook = name
        try:
            for call in ready:
                call(*args)
        except BaseException as error:
            journal.hook = outer
            after.clear()
            _note(error, next(owner for owner, made in calls if made is call), name)
            raise
        if after:
            _call_after(journal, name, outer, after)
        journal.hook = outer

    return run


def _call_after(journal: HookContext, name: str, outer: str, after: list[Callable[[], object]]) -> None:
    """Make the calls that waited for the end of a hook, still within it: they see the metrics that are there then."""
    try:
        while after:
            waiting = after.copy()
            after.clear()
            for call in waiting:
                journal.hook = name
                call()
    except BaseException:
        after.clear()
        journal.hook = outer
        raise


def _older_first(run_older: Callable[..., None], run: Callable[..., None] | None) -> Callable[..., None]:
    """Put a hook of an older generation, which takes no arguments, before the one of today, if that is had."""

    def older_first(*args: Any) -> None:
        run_older()
        if run is not None:
            run(*args)

    return older_first


def _older_last(
    journal: HookContext, name: str, both: tuple[Any, Any], after: list[Callable[[], object]]
) -> Callable[..., None]:
    """Put a hook of an older generation after the one of today; what waits for the hook's end waits for both."""
    run, run_older = both

    def older_last(*args: Any) -> None:
        try:
            run(*args)
            run_older()
        except BaseException:
            after.clear()
            raise
        if after:
            outer = journal.hook
            _call_after(journal, name, outer, after)
            journal.hook = outer

    return older_last


def _call_one(journal: HookContext, name: str, owner: object, call: Call, *args: Any) -> Any:
    outer = journal.hook
    journal.hook = name
    try:
        return call(*args)
    except BaseException as error:
        _note(error, owner, name)
        raise
    finally:
        journal.hook = outer


def _note(error: BaseException, owner: object, name: str) -> None:
    """Say in the traceback which callback it was; the module's own hooks stand there by name already."""
    if isinstance(owner, Callback):
        kind = type(owner).__qualname__
        try:
            key = owner.state_key
        except Exception:  # a property of the callback's own, perhaps broken by the same error: never hide that one
            key = kind
        error.add_note(f"Raised by the callback {kind}{'' if key == kind else f' ({key})'} in {name}.")
