"""What a check of a callback found: one result per property, and all of them as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from leyden.errors import did_you_mean
from leyden.tables import render_table

__all__ = ["Broken", "CallbackReport", "NotChecked", "Result"]

_WIDTH = 118


class Broken(Exception):
    """A property does not hold; the message says what was seen and how it is mended."""


class NotChecked(Exception):
    """A property cannot be told of this callback; the message says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was found of one property.

    Attributes:
        name: of the property, such as ``"resume"``.
        outcome: "holds", "broken" or "not checked".
        reason: why it is broken or was not checked; of one that holds, what is worth knowing, or "".
    """

    name: str
    outcome: Literal["holds", "broken", "not checked"]
    reason: str = ""

    @property
    def holds(self) -> bool:
        return self.outcome == "holds"

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}{'. ' if self.reason else ''}{self.reason}"


class CallbackReport(Mapping[str, Result]):
    """The results of `check_callback` by the names of the properties; true where nothing is broken.

    Example:
        >>> report = CallbackReport("Counter", [Result("resume", "broken", "batches: 3 is not 7")])
        >>> bool(report), report["resume"].outcome, report.broken
        (False, 'broken', ['resume'])
        >>> print(report)
        Counter: 1 of 1 properties is broken
        ┌──────────┬────────┬─────────────────────┐
        │ property │ result │ reason              │
        ├──────────┼────────┼─────────────────────┤
        │ resume   │ broken │ batches: 3 is not 7 │
        └──────────┴────────┴─────────────────────┘
    """

    def __init__(self, callback: str, results: list[Result]) -> None:
        self.callback = callback
        self._results = {result.name: result for result in results}

    def __getitem__(self, name: str) -> Result:
        try:
            return self._results[name]
        except KeyError:
            raise KeyError(f"There is no property {name!r}.{did_you_mean(name, self._results)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __bool__(self) -> bool:
        return not self.broken

    @property
    def broken(self) -> list[str]:
        """The names of the properties that do not hold."""
        return self._named("broken")

    @property
    def not_checked(self) -> list[str]:
        """The names of the properties that were not checked."""
        return self._named("not checked")

    def _named(self, outcome: str) -> list[str]:
        return [name for name, result in self._results.items() if result.outcome == outcome]

    def __str__(self) -> str:
        rows = [[result.name, result.outcome, result.reason] for result in self._results.values()]
        return f"{self.summary}\n{render_table(['property', 'result', 'reason'], rows, width=_WIDTH)}"

    def __repr__(self) -> str:
        # One line with the reasons first: pytest shows 240 characters of what an assert finds false, without breaks.
        return ". ".join([self.summary, *(f"{name}: {self[name].reason}" for name in self.broken)])

    @property
    def summary(self) -> str:
        """How many properties are broken, in a line."""
        broken, of = len(self.broken), len(self)
        if broken:
            return f"{self.callback}: {broken} of {of} properties {'is' if broken == 1 else 'are'} broken"
        unchecked = len(self.not_checked)
        return f"{self.callback}: {of - unchecked} of {of} properties hold" + (
            f", {unchecked} not checked" if unchecked else ""
        )
