"""Records the hooks of an ordinary trainer, for as long as it is watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.hooks.contract import HOOKS
from leyden.testing.recorder import HookRecorder

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["record_hooks"]


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
        MisconfigurationException: a name that is no hook of callbacks, with the nearest that is; when the recording
            ends, a callback that was chosen and that the trainer never had.

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
    chosen_hooks = None if hooks is None else _checked_hooks([hooks] if isinstance(hooks, str) else list(hooks))
    _record(recorder, trainer, None if callbacks is None else _checked_callbacks(callbacks), chosen_hooks, module)
    return recorder


def _record(
    recorder: HookRecorder,
    trainer: Trainer,
    callbacks: list[Any] | None,
    hooks: Sequence[str] | None,
    module: bool,
) -> None:
    names: list[tuple[Callback, str]] = []

    def wrap(owner: object, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
        if getattr(type(owner), "_recorder", None) is recorder or (hooks is not None and hook not in hooks):
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
            recorder.note(f"{who}.{hook}", args, trainer)
            return call(*args)

        return recorded

    end = trainer.watch_hooks(wrap)

    def stop() -> Sequence[str]:
        end()
        _name_all(trainer.callbacks, names)
        known = [name for _, name in names]
        return [
            f"record_hooks(callbacks=[{chosen!r:.80}]): the trainer had no such callback.{_instead(chosen, known)}"
            for chosen in callbacks or ()
            if not any(_is_meant(chosen, callback, name) for callback, name in names)
        ]

    recorder.begin(stop)


def _checked_callbacks(given: Any) -> list[Any]:
    single = isinstance(given, Callback | type | str) or not isinstance(given, Iterable)
    chosen = [given] if single else list(given)
    for one in chosen:
        if not isinstance(one, Callback | type | str):
            raise MisconfigurationException(
                f"record_hooks(callbacks=[{one!r:.80}]): expected callbacks, classes of them, or names in events."
            )
    return chosen


def _checked_hooks(hooks: Sequence[str]) -> Sequence[str]:
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


def _instead(chosen: object, known: Sequence[str]) -> str:
    name = chosen if isinstance(chosen, str) else getattr(chosen, "__name__", "")
    return did_you_mean(name, known) or f" It had: {', '.join(known) or 'none'}."
