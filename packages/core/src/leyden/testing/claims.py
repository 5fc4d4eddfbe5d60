"""What an author says of a callback that is to be checked, and how it is run for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden.arguments import is_count, is_name, refuse
from leyden.callback import Callback
from leyden.errors import MisconfigurationException, UnknownArgumentError, did_you_mean
from leyden.module import LightningModule

__all__ = ["STAGES", "Claims", "claims_of"]

STAGES = ("fit", "validate", "test", "predict")


@dataclass(frozen=True)
class Claims:
    """The keywords of `check_callback`, which documents them."""

    make: Callable[[], Callback]
    module: Callable[[], LightningModule] | None = None
    trainer: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[str] = STAGES
    only_watches: bool | None = None
    reports_every_n_steps: int | None = None
    calls_per_step: int = 100
    older_generations: bool = True
    varies: Sequence[str] = ()
    leaves: Sequence[str] = ()
    without: Mapping[str, str] = field(default_factory=dict)

    def fresh(self) -> Callback:
        """Return a new callback."""
        made = self.make()
        if not isinstance(made, Callback):
            raise MisconfigurationException(
                f"make() returned {made!r:.80}; expected a fresh instance of leyden.Callback."
            )
        return made


def claims_of(make: object, what: Mapping[str, Any], properties: Sequence[str]) -> Claims:
    """Return the claims in `what`, which are checked all at once.

    Raises:
        MisconfigurationException: `make` cannot be called, or a claim is none or out of range.
    """
    if isinstance(make, Callback) or not callable(make):
        raise MisconfigurationException(
            f"check_callback({make!r:.80}): expected a callable that returns a fresh callback each time, such as the "
            "class, or `lambda: MyCallback(every_n_steps=2)`."
        )
    known = [name for name in Claims.__dataclass_fields__ if name != "make"]
    for name in what:
        if name not in known:
            raise UnknownArgumentError(
                f"check_callback() has no argument {name!r}.{did_you_mean(name, known)} It has: {', '.join(known)}."
            )
    claims = Claims(make, **what)
    refuse("check_callback", list(_mistakes(claims, properties)))
    return claims


def _mistakes(claims: Claims, properties: Sequence[str]) -> list[str]:
    def unknown(name: str, given: object, options: Sequence[str]) -> str:
        near = did_you_mean(str(given), options)
        return f"{name} has {given!r}, which there is not.{near} There are: {', '.join(options)}."

    found = []
    if claims.module is not None and (isinstance(claims.module, LightningModule) or not callable(claims.module)):
        found.append(f"module={claims.module!r:.80}: expected a callable that returns a fresh LightningModule")
    if not isinstance(claims.trainer, Mapping):
        found.append(f"trainer={claims.trainer!r:.80}: expected a dict of arguments of Trainer")
    elif "callbacks" in claims.trainer:
        found.append("trainer={'callbacks': ...}: the callback that is checked is the one that `make` returns")
    if isinstance(claims.stages, str) or not claims.stages:
        found.append(f"stages={claims.stages!r}: expected some of {', '.join(STAGES)}")
    else:
        found += [unknown("stages=", one, STAGES) for one in claims.stages if one not in STAGES]
    if claims.only_watches not in (None, True, False):
        found.append(f"only_watches={claims.only_watches!r}: expected True, False or None")
    if claims.reports_every_n_steps is not None and not is_count(claims.reports_every_n_steps, least=1):
        found.append(f"reports_every_n_steps={claims.reports_every_n_steps!r}: expected an int >= 1")
    if not is_count(claims.calls_per_step):
        found.append(f"calls_per_step={claims.calls_per_step!r}: expected an int >= 0")
    for name, parts in (("varies", claims.varies), ("leaves", claims.leaves)):
        if isinstance(parts, str) or not all(is_name(part) for part in parts):
            found.append(f"{name}={parts!r}: expected a list of parts of names")
    if not isinstance(claims.without, Mapping):
        found.append(f"without={claims.without!r:.80}: expected a dict of reasons by the names of properties")
    else:
        found += [unknown("without=", one, properties) for one in claims.without if one not in properties]
        found += [
            f"without={{{one!r}: {why!r}}}: expected the reason, as text"
            for one, why in claims.without.items()
            if not is_name(why)
        ]
    return found
