"""The callbacks of a trainer: attached, ordered, and their hooks compiled into the plan of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.hooks.attached import AttachedCallbacks, as_list
from leyden.hooks.binding import Call
from leyden.hooks.isolation import Isolation
from leyden.hooks.ordering import Ordered, Placed
from leyden.hooks.plan import Plan, Wrap, call_init_hooks
from leyden.profilers import Profiler
from leyden.rank_zero import rank_zero_warn
from leyden.tables import render_table
from leyden.trainer_properties import TrainerProperties

if TYPE_CHECKING:
    from leyden.datamodule import LightningDataModule
    from leyden.discovery import Discovered, SwitchedOff
    from leyden.trainer import Trainer

__all__ = ["TrainerCallbacks"]


class TrainerCallbacks(TrainerProperties):
    """How a `Trainer` comes by its callbacks, and what stands around the calls of their hooks."""

    datamodule: LightningDataModule | None
    plan: Plan
    profiler: Profiler | None
    discovered: Discovered
    _isolation: Isolation
    _watching: list[Wrap]

    def _attach_callbacks(self, callbacks: Any) -> None:
        trainer = cast("Trainer", self)
        given = as_list(callbacks)
        settings = self.settings
        if settings.max_time is not None:
            given += _timer(settings.max_time, given)
        attached = AttachedCallbacks([Placed(callback) for callback in given], self._compile_plan, self.strategy)
        call_init_hooks(given, "on_init_start", trainer)
        self._attached = attached
        if settings.enable_checkpointing is False and self.checkpoint_callbacks:
            name = type(self.checkpoint_callbacks[0]).__name__
            raise MisconfigurationException(
                f"Trainer(enable_checkpointing=False, callbacks=[{name}(...)]) contradict each other; leave one of "
                "them out."
            )
        if settings.accumulate_grad_batches != 1 and (scheduled := self._with_role("accumulation")):
            raise MisconfigurationException(
                f"Trainer(accumulate_grad_batches={settings.accumulate_grad_batches}, callbacks=["
                f"{type(scheduled[0]).__name__}(...)]) contradict each other, since both say how many batches an "
                "optimizer step has; leave one of them out."
            )
        self._isolation = Isolation(
            attached.of_environment, self._users_parts, self.plan.waiting, self.switch_off, self._fails_alone
        )
        from leyden.discovery import attach_discovered

        self.discovered = attach_discovered(trainer, attached, given)
        self._compile_plan()
        call_init_hooks(list(self.callbacks), "on_init_end", trainer, wrap=self._isolation.wrap)

    def attach_module_callbacks(self, callbacks: Any) -> None:
        """Attach what a module's ``configure_callbacks`` returned, and compile the plan of the run's hooks."""
        self._attached.take_from_module(as_list(callbacks))
        self._compile_plan()

    def _compile_plan(self) -> None:
        callbacks = self._attached.called_in(None if self.state.fn is None else str(self.state.fn))
        meetings = self.journal.meetings() if self.world_size > 1 else {}
        self.plan.compile(
            cast("Trainer", self), self.lightning_module_or_none, callbacks, wrap=self._wrap, meetings=meetings
        )

    def watch_hooks(self, wrap: Wrap) -> Callable[[], None]:
        """Let `wrap` stand around every call of a hook from now on, and return what takes it away again.

        `wrap` gets the owner (a callback or the module), the hook's name and the call, and returns the call to make. It
        is asked when the plan is compiled; where nobody watches, nothing is added. `leyden.testing.record_hooks` does.
        """
        self._watching.append(wrap)
        self._compile_plan()

        def end() -> None:
            if wrap in self._watching:
                self._watching.remove(wrap)
                self._compile_plan()

        return end

    def _wrap(self, owner: object, hook: str, call: Call) -> Call:
        for watch in self._watching:  # innermost: what a guard keeps from being called is not seen
            call = watch(owner, hook, call)
        measured = call if self.profiler is None else self.profiler.wrap(owner, hook, call)
        return self._isolation.wrap(owner, hook, measured)

    def describe_callbacks(self) -> list[Ordered]:
        """Print and return the callbacks in the order of their calls, each with the reason for its place."""
        rows = [
            [str(place), type(o.callback).__name__, o.placed.distribution or o.placed.source, o.reason]
            for place, o in enumerate(self._attached.ordered, start=1)
        ]
        table = render_table(["", "callback", "from", "reason"], rows, title="Callbacks, in the order of their calls")
        cast("Trainer", self).print(table)
        return list(self._attached.ordered)

    def guarded(self, callback: Callback, what: str, call: Call) -> Call:
        """Return `call`, a method of `callback` that is no hook, isolated like one if the environment attached it."""
        return self._isolation.guard(callback, what, call)

    def _users_parts(self) -> list[object]:
        """The module, the datamodule and the callbacks that raise as ever."""
        own = [callback for callback in self.callbacks if not self.is_of_environment(callback)]
        return [part for part in (self.lightning_module_or_none, self.datamodule, *own) if part is not None]

    def is_of_environment(self, callback: Callback) -> bool:
        """Whether neither the user nor the module gave this callback."""
        return self._attached.of_environment(callback) is not None

    def _fails_alone(self, callback: Callback, hook: str) -> bool:
        """Whether others would wait for a callback that has raised in `hook` here; called in each process where it has.

        One that all have alike may raise in all of them at one place, and is switched off in all.
        """
        if self.world_size == 1 or hook == "common_settings":
            return False
        if callback.common_settings(cast("Trainer", self)) is None:
            return False
        return not self.strategy.all_come(f"{callback.state_key} raised in {hook}")

    def switch_off(self, callback: Callback, event: SwitchedOff) -> None:
        """Take out a callback of the environment, with what is to be remembered of it."""
        self.discovered.switched_off.append(event)
        self._attached.drop(callback)
        self._compile_plan()


def _timer(max_time: Any, given: list[Any]) -> list[Callback]:
    try:
        from leyden.callbacks import Timer
    except ImportError as error:
        raise ImportError(f"Trainer(max_time={max_time!r}) is kept by a callback: {error}", name=error.name) from None
    if any(isinstance(callback, Timer) for callback in given):
        rank_zero_warn(f"Trainer(max_time={max_time!r}) is ignored, since callbacks= holds a Timer; leave one out.")
        return []
    try:
        return [Timer(duration=max_time)]
    except MisconfigurationException as error:
        raise MisconfigurationException(f"Trainer(max_time={max_time!r}): {error}") from error
