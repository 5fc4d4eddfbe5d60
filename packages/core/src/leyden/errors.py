"""Errors that name the fix, and the one place that guesses what a misspelt name was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "MisconfigurationException",
    "ProcessFailedError",
    "SIGTERMException",
    "UnknownArgumentError",
    "did_you_mean",
    "with_article",
]


class MisconfigurationException(Exception):
    """A setting, hook, loader or return value that cannot work; the message says what to change."""


class UnknownArgumentError(MisconfigurationException, TypeError):
    """An argument that a function does not have: a configuration error, and the TypeError Python itself would raise."""


class ProcessFailedError(RuntimeError):
    """Another process of the run failed, so that this one can't go on; the message has that one's traceback."""


class SIGTERMException(SystemExit):
    """Raised after the batch during which SIGTERM arrived; left uncaught the process ends with exit code 143."""

    def __init__(self, code: int = 143) -> None:
        super().__init__(code)


def with_article(name: str) -> str:
    """Return ``"an int"`` for "int", ``"a str"`` for "str".

    Example:
        >>> with_article("Optimizer"), with_article("tuple")
        ('an Optimizer', 'a tuple')
    """
    return f"{'an' if name[:1] in tuple('aeiouAEIOU') else 'a'} {name}"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the option nearest to `name`, or ``""`` when none is near.

    Example:
        >>> did_you_mean("max_epoch", ["max_epochs", "max_steps"])
        " Did you mean 'max_epochs'?"
    """
    near = difflib.get_close_matches(name, list(options), n=1, cutoff=0.7)
    return f" Did you mean {near[0]!r}?" if near else ""
