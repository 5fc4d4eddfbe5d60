"""What a `Trainer()` gets in this folder, with this environment and configuration, and what is said meanwhile."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO

from leyden.cli.output import one_line
from leyden.discovery import Discovered
from leyden.hooks.ordering import Ordered
from leyden.trainer import Trainer

__all__ = ["Here", "look_here", "quietly"]


@dataclass(frozen=True, slots=True)
class Here:
    """The callbacks of a default trainer in their order, what discovery found, and the warnings it gave."""

    ordered: Sequence[Ordered]
    discovered: Discovered
    warnings: Sequence[str]


def look_here() -> Here:
    """Make a default trainer, as a script would; nothing is trained and nothing written.

    Raises:
        MisconfigurationException: what such a script would be told about its environment.
    """
    with quietly() as said:
        trainer = Trainer()
        with redirect_stdout(StringIO()):
            ordered = trainer.describe_callbacks()
    broken = {one_line(str(one)) for one in trainer.discovered.broken}
    told = dict.fromkeys(one for one in map(one_line, said) if one not in broken)
    return Here(ordered, trainer.discovered, list(told))


@contextmanager
def quietly() -> Iterator[list[str]]:
    """Collect warnings instead of showing them, keep the log still, and let what others print go to stderr."""
    said: list[str] = []
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield said
            finally:
                said += [str(warning.message) for warning in caught]
    finally:
        logging.disable(disabled)
