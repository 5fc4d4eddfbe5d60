"""Keeps what the environment attached from doing harm: a callback that raises in a hook is reported and switched off.

Only callbacks that neither the user nor the module gave are wrapped, when the plan is compiled: theirs cost nothing and
raise as ever, these cost one Python call a hook.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

from leyden.callback import Callback, Checkpoint
from leyden.discovery.found import SwitchedOff, in_one_line, report
from leyden.errors import SIGTERMException
from leyden.hooks.binding import Call
from leyden.hooks.ordering import Placed
from leyden.state.plain import check_plain

__all__ = ["Isolation"]

_CORE = str(Path(__file__).parents[1])


class Isolation:
    """The guard of one trainer.

    Args:
        placed: tells where a callback of the environment comes from, None for all others.
        users: returns the module, the datamodule and the callbacks that are not guarded.
        waiting: the plan's calls that wait for the end of a hook.
        switch_off: takes a callback out of the trainer, with what is to be remembered of it.
        fails_alone: whether other processes would wait for a callback that is switched off after a hook, in this one.
    """

    def __init__(
        self,
        placed: Callable[[object], Placed | None],
        users: Callable[[], Sequence[object]],
        waiting: list[Callable[[], object]],
        switch_off: Callable[[Callback, SwitchedOff], None],
        fails_alone: Callable[[Callback, str], bool] = lambda callback, hook: False,
    ) -> None:
        self._placed, self._users, self._waiting, self._switch_off = placed, users, waiting, switch_off
        self._fails_alone = fails_alone
        self._off: dict[int, list[Callback]] = {}  # by id; a list that holds something: off
        self._told: set[str] = set()

    def wrap(self, owner: object, hook: str, call: Call) -> Call:
        """Return the call of a hook to make: `call` itself unless the environment attached its owner."""
        placed = self._placed(owner)
        if placed is None:
            return call
        if hook == "state_dict":
            return self._guarded(placed, hook, _plain_state(call, type(owner).__name__))
        if hook == "on_save_checkpoint":
            return self._guarded(placed, hook, _harmless_to_checkpoints(call, type(owner).__name__))
        if hook.endswith("_end"):
            return self._guarded_with_waiting(placed, hook, call)
        return self._guarded(placed, hook, call)

    def guard(self, owner: object, what: str, call: Call) -> Call:
        """Return another call of a callback's method likewise."""
        placed = self._placed(owner)
        return call if placed is None else self._guarded(placed, what, call)

    def _guarded(self, placed: Placed, hook: str, call: Call) -> Call:
        off = self._off.setdefault(id(placed.callback), [])
        took = functools.partial(self._took, placed, hook)

        def isolated(*args: Any) -> Any:
            if off:  # a hook that was under way when it was switched off, or a teardown kept from its setup
                return None
            try:
                return call(*args)
            except BaseException as error:
                if not took(error):
                    raise

        return isolated

    def _guarded_with_waiting(self, placed: Placed, hook: str, call: Call) -> Call:
        """As `_guarded`, for hooks in which something may be put off to their end: that is guarded too."""
        off = self._off.setdefault(id(placed.callback), [])
        waiting, took = self._waiting, functools.partial(self._took, placed, hook)

        def isolated(*args: Any) -> Any:
            if off:
                return None
            before = len(waiting)
            try:
                result = call(*args)
            except BaseException as error:
                if not took(error):
                    raise
                del waiting[before:]
                return None
            if len(waiting) > before:
                waiting[before:] = [self._guarded_with_waiting(placed, hook, put_off) for put_off in waiting[before:]]
            return result

        return isolated

    def _took(self, placed: Placed, hook: str, error: BaseException) -> bool:
        """Report what a callback raised and switch it off; False where it is to be raised, being another's."""
        if isinstance(error, (KeyboardInterrupt, SIGTERMException, GeneratorExit)):
            return False
        if _comes_from_a_signal(error) or _comes_from(error, self._users()):
            return False
        callback = placed.callback
        name, cause = type(callback).__name__, in_one_line(error)
        whose = f"The callback {name} of {placed.distribution or 'an entry point'}"
        if placed.where is not None:
            whose += f" (configured in {placed.where})"
        if isinstance(callback, Checkpoint):
            # Off, it would lose every checkpoint to come for the sake of one.
            message = f"{whose} raised {cause} in {hook}; a checkpoint may be missing. It goes on, and so does the run."
            if message not in self._told:
                self._told.add(message)
                report(message, traceback_of=error)
            return True
        off = self._off.setdefault(id(callback), [])
        if off:  # in a hook within the one that raised
            return True
        if self._fails_alone(callback, hook):
            error.add_note(
                f"{whose} raised this in {hook} in one process alone, and all have to do together what it does: "
                "it cannot be switched off there, and ends the run."
            )
            return False
        off.append(callback)
        report(
            f"{whose} raised {cause} in {hook} and is switched off; the run goes on. "
            "Its traceback is in the log 'leyden'.",
            traceback_of=error,
        )
        self._switch_off(callback, SwitchedOff(name, placed.distribution or "", hook, cause, _key(callback)))
        return True


def _key(callback: Callback) -> str:
    try:
        return callback.state_key
    except Exception:  # perhaps broken by the same error
        return ""


def _plain_state(call: Call, name: str) -> Call:
    def state_dict() -> Any:
        state = call()
        if state:
            check_plain(state, f"the state of the callback {name}: state_dict()")
        return state

    return state_dict


def _harmless_to_checkpoints(call: Call, name: str) -> Call:
    """Undo what a callback did to a checkpoint where it raised, or put into it what cannot be saved."""

    def on_save_checkpoint(checkpoint: dict[str, Any]) -> Any:
        before = dict(checkpoint)
        try:
            returned = call(checkpoint)
            for key, value in checkpoint.items():
                if key not in before or before[key] is not value:
                    check_plain(value, f"what {name}.on_save_checkpoint put into the checkpoint: {key!r}")
            if returned:  # the state, of a callback of an older generation
                check_plain(returned, f"the state of the callback {name}: on_save_checkpoint()")
        except BaseException:
            checkpoint.clear()
            checkpoint.update(before)
            raise
        return returned

    return on_save_checkpoint


def _comes_from_a_signal(error: BaseException) -> bool:
    """Whether a handler of a signal raised it: that is meant for the process, whoever was running."""
    codes = set()
    for number in signal.valid_signals():
        try:
            codes.add(_code_of(signal.getsignal(number)))
        except ValueError:
            continue
    return any(code in codes for code in (frame.f_code for frame in _frames(error)))


def _code_of(handler: object) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    handler = getattr(handler, "__func__", handler)
    code = getattr(handler, "__code__", None) or getattr(vars(type(handler)).get("__call__"), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _comes_from(error: BaseException, users: Sequence[object]) -> bool:
    """Whether it came out of a hook or step of the user's that the core called while the callback's hook was running.

    So it is where a checkpoint callback saves and another callback's `state_dict` raises. What a callback itself calls
    of the module, such as its forward, is the callback's doing.
    """
    caller_is_core = False
    for frame in _frames(error):
        of_core = frame.f_code.co_filename.startswith(_CORE)
        if not of_core and caller_is_core:
            owner = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
            if any(owner is user for user in users):
                return True
        caller_is_core = of_core
    return False


def _frames(error: BaseException) -> list[Any]:
    frames, traceback = [], error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames
