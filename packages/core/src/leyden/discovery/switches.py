"""Who may attach callbacks: ``LEYDEN_CALLBACKS`` for one run, ``allow`` and ``deny`` for an environment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from leyden.discovery.installed import canonical
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.rank_zero import rank_zero_warn

__all__ = ["Filter", "Switch", "discovery_is_on", "read_switch"]

_OFF = ("off", "0", "false", "no")
_ON = ("", "on", "1", "true", "yes")
_FORMS = "expected off, on, only:NAME,... or without:NAME,..."


@dataclass(frozen=True, slots=True)
class Filter:
    """Names that alone may attach callbacks (`only`), or that may not.

    A name is that of a factory (its entry point), of a distribution or of a callback's class; case, dashes and
    underscores make no difference. `said_by` is what to name in reasons.
    """

    names: tuple[str, ...]
    only: bool
    said_by: str

    def holds(self, *names: str) -> bool:
        wanted = {canonical(name) for name in self.names}
        return any(canonical(name) in wanted for name in names)

    def reason_against(self, *names: str) -> str | None:
        """Return why a callback with these names is left out, None where it is not."""
        if self.holds(*names) == self.only:
            return None
        return f"not named by {self.said_by}" if self.only else f"named by {self.said_by}"

    def warn_of_unknown(self, known: Iterable[str]) -> None:
        """Warn of names that nothing here has.

        A name to leave out may well be that of something which is not installed here: only a near miss is told.
        """
        options = list(known)
        have = {canonical(one) for one in options}
        for name in self.names:
            near = did_you_mean(name, options)
            if canonical(name) not in have and (near or self.only):
                rank_zero_warn(f"{self.said_by}: nothing installed here is called {name!r}.{near}")


@dataclass(frozen=True, slots=True)
class Switch:
    """What ``LEYDEN_CALLBACKS`` says."""

    on: bool
    filter: Filter | None = None


def discovery_is_on() -> bool:
    """Whether the environment lets anything be attached: no where ``LEYDEN_CALLBACKS=off``."""
    return read_switch().on


def read_switch() -> Switch:
    """Return what ``LEYDEN_CALLBACKS`` says: ``off``, ``on``, ``only:a,b`` or ``without:c``.

    Raises:
        MisconfigurationException: it says something else.
    """
    value = os.environ.get("LEYDEN_CALLBACKS", "").strip()
    if value.lower() in _OFF:
        return Switch(on=False)
    if value.lower() in _ON:
        return Switch(on=True)
    word, _, listed = value.partition(":")
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    mode = word.strip().lower()
    if mode not in ("only", "without") or not names:
        near = did_you_mean(mode, ["off", "on", "only", "without"]) if not names else ""
        raise MisconfigurationException(f"LEYDEN_CALLBACKS={value!r}: {_FORMS}.{near}")
    return Switch(on=True, filter=Filter(names, mode == "only", f"LEYDEN_CALLBACKS={value}"))
