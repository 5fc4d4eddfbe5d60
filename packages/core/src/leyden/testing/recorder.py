"""Records which hooks are called, with what, and when: ``who.hook(facts) @current_epoch/global_step``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.hooks.contract import HOOKS, Hook
from leyden.module import LightningModule

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["HookRecorder", "record_hooks"]

AnyCallback = TypeVar("AnyCallback", bound=Callback)
AnyModule = TypeVar("AnyModule", bound=LightningModule)


def record_hooks(
    trainer: Trainer,
    *,
    callbacks: Callback | type | str | Iterable[Callback | type | str] | None = None,
    hooks: str | Iterable[str] | None = None,
    module: bool = True,
    arguments: bool = True,
    progress: bool = True,
) -> HookRecorder:
    """Record every hook that the trainer's callbacks and its module have and get from now on, as they are.

    They are called as ever, and no sooner or later; what the environment attached stays guarded. The recording ends
    with a ``with`` block or `HookRecorder.stop`, and leaves nothing in the trainer. In an event a callback has its
    `name`, or that of its class (``Counter``, ``Counter-2``, …, in their order), the module is ``module``. The hooks of
    ``Trainer(...)`` itself (``on_init_start``, ``on_init_end``) are past by then. Steps and other methods that the
    module alone has are recorded of one that the recorder made: ``recorder.module(MyModule, also=["training_step"])``.

    Args:
        callbacks: only these: instances, classes (with their subclasses) or names in events.
        hooks: only these.
        module: False leaves out the module's.
        arguments: False leaves out what a hook got: ``Counter.on_fit_start @0/0``.
        progress: False leaves out epoch and step: ``Counter.on_fit_start()``.

    Raises:
        MisconfigurationException: a name that is no hook of callbacks, with the nearest that is.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> class Counter(Callback):
        ...     def on_validation_start(self, trainer, pl_module): ...
        ...     def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx): ...
        >>> trainer = Trainer(callbacks=Counter(), logger=False, discover_callbacks=False)
        >>> with record_hooks(trainer) as recorder:
        ...     metrics = trainer.validate(BoringModule(), verbose=False)
        >>> recorder.events
        ['Counter.on_validation_start() @0/0', 'Counter.on_validation_batch_end(None,T,0) @0/0']
    """
    recorder = HookRecorder(arguments=arguments, progress=progress)
    chosen = None if callbacks is None else _as_list(callbacks, (Callback, type, str))
    recorder._watch(trainer, chosen, None if hooks is None else _checked(_as_list(hooks, (str,))), module)
    return recorder


def _as_list(given: Any, single: tuple[type, ...]) -> list[Any]:
    return [given] if isinstance(given, single) else list(given)


def _checked(hooks: Sequence[str]) -> Sequence[str]:
    known = [name for name, hook in HOOKS.items() if hook.callbacks]
    for name in hooks:
        if name in known:
            continue
        problem = f"record_hooks(hooks=[{name!r}]): this is no hook of callbacks."
        if name in HOOKS:
            raise MisconfigurationException(
                f"{problem} Only the module has it: train recorder.module(MyModule, also=[{name!r}]) to record it."
            )
        raise MisconfigurationException(problem + did_you_mean(name, known))
    return hooks


class HookRecorder:
    """A list of events, and what writes them: recording callbacks and modules, or `record_hooks` for those there are.

    In an event ``T`` stands for a tensor, ``opt`` for an optimizer, ``{loss}`` for a dict with that key, ``[…]`` for a
    list; devices and closures are left out. `arguments` and `progress` say whether an event holds what the hook got,
    and the epoch and step at which it was called.

    Example:
        >>> recorder = HookRecorder()
        >>> callback = recorder.callback("cb")
        >>> callback.on_before_backward(None, None, torch.tensor(1.0))
        >>> recorder.events
        ['cb.on_before_backward(T) @0/0']
    """

    def __init__(self, *, arguments: bool = True, progress: bool = True) -> None:
        self.events: list[str] = []
        self._arguments, self._progress = arguments, progress
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the recording that `record_hooks` began; the events stay."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def callback(self, who: str, base: type[AnyCallback] = Callback, **arguments: Any) -> AnyCallback:  # type: ignore[assignment]
        """Return an instance of `base` that records every hook of callbacks under the name `who`."""
        hooks = [hook for hook in HOOKS.values() if hook.callbacks and hook.generation is None]
        made: AnyCallback = self._recording(who, base, hooks, skip=2)(**arguments)
        made.name = who
        return made

    def module(
        self,
        base: type[AnyModule],
        who: str = "module",
        *,
        also: Iterable[str] = (),
        **arguments: Any,
    ) -> AnyModule:
        """Return an instance of `base` that records the hooks it shares with callbacks, and those named in `also`."""
        shared = [hook for hook in HOOKS.values() if hook.callbacks and hook.module and hook.generation is None]
        made: AnyModule = self._recording(who, base, [*shared, *(HOOKS[name] for name in also)], skip=0)(**arguments)
        return made

    def ended(self, trainer: Trainer, run: Callable[[], object]) -> None:
        """Run `run` and record how it ended: ``returned`` or what it raised, then ``end`` with the progress made."""
        try:
            run()
        except BaseException as error:
            self.events.append(f"raised {type(error).__name__}")
        else:
            self.events.append("returned")
        self.events.append(f"end @{_progress(trainer)}")

    def _recording(self, who: str, base: type[Any], hooks: Iterable[Hook], skip: int) -> type[Any]:
        methods = {hook.name: self._method(who, hook, base, skip if hook.passes_caller else 0) for hook in hooks}
        return type(f"Recording{base.__name__}", (base,), {"__module__": __name__, "_recorder": self, **methods})

    def _method(self, who: str, hook: Hook, base: type[Any], skip: int) -> Callable[..., Any]:
        original = getattr(base, hook.name)
        note = self._note

        def record(self: Any, *args: Any, **kwargs: Any) -> Any:
            trainer = args[0] if skip else _trainer_of(self)
            note(f"{who}.{hook.name}", (*args[skip:], *kwargs.values()), trainer)
            return original(self, *args, **kwargs)

        return record

    def _watch(self, trainer: Trainer, callbacks: list[Any] | None, hooks: Sequence[str] | None, module: bool) -> None:
        names: list[tuple[Callback, str]] = []

        def wrap(owner: object, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
            if getattr(owner, "_recorder", None) is self or (hooks is not None and hook not in hooks):
                return call
            if isinstance(owner, Callback):
                _name_all([*trainer.callbacks, owner], names)
                who = next(name for one, name in names if one is owner)
                if callbacks is not None and not any(_is_meant(one, owner, who) for one in callbacks):
                    return call
            elif module:
                who = "module"
            else:
                return call

            def recorded(*args: Any) -> Any:
                self._note(f"{who}.{hook}", args, trainer)
                return call(*args)

            return recorded

        self._stop = trainer.watch_hooks(wrap)

    def _note(self, what: str, args: Iterable[object], trainer: Trainer | None) -> None:
        if self._arguments:
            what += f"({','.join(_fact(value) for value in args if not _is_left_out(value))})"
        self.events.append(f"{what} @{_progress(trainer)}" if self._progress else what)


def _name_all(callbacks: Iterable[Callback], names: list[tuple[Callback, str]]) -> None:
    """Give those that have none yet a name in events, which they then keep."""
    for callback in callbacks:
        if any(one is callback for one, _ in names):
            continue
        name = callback.name if isinstance(callback.name, str) else type(callback).__name__
        taken, number, unique = {used for _, used in names}, 2, name
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        names.append((callback, unique))


def _is_meant(chosen: object, callback: Callback, who: str) -> bool:
    return chosen is callback or chosen == who or (isinstance(chosen, type) and isinstance(callback, chosen))


def _trainer_of(owner: Any) -> Any:
    if isinstance(owner, Callback):
        return None if owner._trainer_ref is None else owner._trainer_ref()
    return getattr(owner, "_trainer", None)


def _progress(trainer: Trainer | None) -> str:
    return "0/0" if trainer is None else f"{trainer.current_epoch}/{trainer.global_step}"


def _is_left_out(value: object) -> bool:
    return isinstance(value, torch.device) or (
        callable(value) and not isinstance(value, (Optimizer, torch.Tensor, torch.nn.Module))
    )


def _fact(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return "T"
    if isinstance(getattr(value, "optimizer", value), Optimizer):  # also the wrapper of manual optimisation
        return "opt"
    if isinstance(value, Mapping):
        return "{" + ",".join(map(str, value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_fact, value)) + "]"
    if isinstance(value, BaseException):
        return type(value).__name__
    return repr(value)
