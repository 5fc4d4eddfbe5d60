"""What discovery found: what is attached, what is not and why, and what is broken."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from leyden.callback import Callback, Checkpoint
from leyden.errors import MisconfigurationException
from leyden.hooks.ordering import Placed
from leyden.rank_zero import rank_zero_only, rank_zero_warn

__all__ = ["STRICT", "Broken", "Discovered", "LeftOut", "SwitchedOff", "in_one_line", "report"]

STRICT = "`strict = true` in the configuration makes this an error."

_log = logging.getLogger("leyden")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A callback that is installed or configured and not attached, with the reason in words.

    ``callback`` is the name of its class, or "all" where its factory was not even called.
    """

    callback: str
    distribution: str
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """An entry point, or a table of the configuration, that brought no callbacks because it failed.

    Example:
        >>> print(Broken("acme", "1.2", "watch", "acme.watch:make", "RuntimeError: no driver"))
        The callbacks of acme 1.2 are left out: its entry point `watch = acme.watch:make` in the group
        leyden.callbacks_factory failed with RuntimeError: no driver
    """

    distribution: str
    version: str
    name: str
    value: str
    cause: str

    def __str__(self) -> str:
        if self.name.startswith("[callbacks."):
            name = self.name[len("[callbacks.") : -1]
            whose = f"{self.distribution} {self.version}".strip()
            return f"{name} of {whose} is left out: {self.name} ({self.value}) failed with {self.cause}"
        return (
            f"The callbacks of {f'{self.distribution} {self.version}'.strip()} are left out: its entry point "
            f"`{self.name} = {self.value}` in the group leyden.callbacks_factory failed with {self.cause}"
        )


@dataclass(frozen=True, slots=True)
class SwitchedOff:
    """A discovered callback that raised in a hook and gets no more of them."""

    callback: str
    distribution: str
    hook: str
    cause: str
    state_key: str = ""


@dataclass(slots=True)
class Discovered:
    """The result of a discovery; a trainer keeps its own as ``trainer.discovered``.

    Attributes:
        placed: what is to be attached, with where it comes from.
        left_out: what is not, and why.
        broken: what failed.
        switched_off: what raised in a hook since.
        off_because: why nothing was looked for at all; "" where it was.
        roles: the roles of everything that was offered, attached or not.
    """

    placed: list[Placed] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    switched_off: list[SwitchedOff] = field(default_factory=list)
    off_because: str = ""
    strict: bool = False
    roles: set[str] = field(default_factory=set)

    def cannot_work(self, placed: Placed, error: Exception) -> None:
        """Take out again what cannot work beside the other callbacks; an error where an operator asked for it."""
        name, whose = type(placed.callback).__name__, placed.distribution or "an entry point"
        self.placed = [one for one in self.placed if one is not placed]
        if placed.where is not None:
            raise MisconfigurationException(f"{placed.where}: [callbacks.{name}]: {error}") from error
        message = f"{name} of {whose} is left out: {_cause(error)}"
        if self.strict:
            raise MisconfigurationException(f"{message}\n{STRICT}") from error
        self.left_out.append(LeftOut(name, whose, _cause(error)))
        report(message)

    def warn_of_missing(self, wanted: Mapping[str, str], callbacks: Sequence[Callback]) -> None:
        """Warn of what the user switched on and nothing here brings; `wanted` has the families that do, by switch."""
        for switch, family in wanted.items():
            role = "checkpoint" if switch == "checkpointing" else switch
            there = any(one.role == role or (role == "checkpoint" and isinstance(one, Checkpoint)) for one in callbacks)
            if not there and role not in self.roles:
                rank_zero_warn(
                    f"Trainer(enable_{switch}=True): nothing here brings a {role.replace('_', ' ')}. To get one: pip "
                    f"install leyden-callbacks-{family}, or give a callback of your own."
                )


def report(message: str, *, traceback_of: BaseException | None = None) -> None:
    """Warn in the first process; where warnings are errors, log instead: what watches a training must not end it.

    With `traceback_of` its traceback goes into the log ``leyden`` too.
    """
    try:
        rank_zero_warn(message)
    except Warning:
        if rank_zero_only.rank == 0:
            _log.warning(message)
    if traceback_of is not None:
        # Other processes warn of nothing: their logs say all of it.
        told = message.partition(" raised ")[0] if rank_zero_only.rank == 0 else message
        _log.warning("%s:", told, exc_info=traceback_of)


def in_one_line(error: BaseException) -> str:
    """Return the type and message of an error on one line.

    Example:
        >>> in_one_line(RuntimeError("no\\n  driver"))
        'RuntimeError: no driver'
    """
    try:
        text = str(error)
        kind = "" if type(error).__name__ == "EndedByItself" else f"{type(error).__name__}: "
        return " ".join(f"{kind}{text}".split()).rstrip(": ")
    except Exception:  # an error that cannot even be printed
        return type(error).__name__


def _cause(error: Exception) -> str:
    return str(error) if isinstance(error, MisconfigurationException) else in_one_line(error)
