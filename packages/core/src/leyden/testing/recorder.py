"""Records which hooks are called, with what, and when: ``who.hook(facts) @current_epoch/global_step``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.hooks.contract import HOOKS, Hook
from leyden.module import LightningModule

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["HookRecorder"]

AnyCallback = TypeVar("AnyCallback", bound=Callback)
AnyModule = TypeVar("AnyModule", bound=LightningModule)


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
        self._stop: Callable[[], Sequence[str]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self.stop()
        else:  # what was raised is what is to be seen
            self._end()

    def stop(self) -> None:
        """End the recording that `record_hooks` began; the events stay.

        Raises:
            MisconfigurationException: a callback was to be recorded that the trainer never had.
        """
        for problem in self._end():
            raise MisconfigurationException(problem)

    def begin(self, end: Callable[[], Sequence[str]]) -> None:
        """Take what ends a recording that began, and returns what was wrong with it."""
        self._stop = end

    def note(self, what: str, args: Iterable[object], trainer: Trainer | None) -> None:
        """Record one event: `what` got `args`, under the trainer's epoch and step."""
        if self._arguments:
            what += f"({','.join(_fact(value) for value in args if not _is_left_out(value))})"
        self.events.append(f"{what} @{_progress(trainer)}" if self._progress else what)

    def _end(self) -> Sequence[str]:
        stop, self._stop = self._stop, None
        return [] if stop is None else stop()

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
        note = self.note

        def record(self: Any, *args: Any, **kwargs: Any) -> Any:
            trainer = args[0] if skip else _trainer_of(self)
            note(f"{who}.{hook.name}", (*args[skip:], *kwargs.values()), trainer)
            return original(self, *args, **kwargs)

        return record


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
