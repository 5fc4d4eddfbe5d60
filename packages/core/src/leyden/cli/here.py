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
    """The callbacks of a default trainer in their order, what discovery found, and what was said meanwhile.

    `notes` are warnings for those who write callbacks, such as of deprecations.
    """

    ordered: Sequence[Ordered]
    discovered: Discovered
    warnings: Sequence[str]
    notes: Sequence[str]


def look_here() -> Here:
    """Make a default trainer, as a script would; nothing is trained and nothing written.

    Raises:
        MisconfigurationException: what such a script would be told about its environment.
    """
    with quietly() as said:
        trainer = Trainer()
        with redirect_stdout(StringIO()):
            ordered = trainer.describe_callbacks()
    told = {one_line(one) for one in trainer.discovered.broken}
    for_users = dict.fromkeys(one_line(one.message) for one in said if issubclass(one.category, UserWarning))
    for_authors = dict.fromkeys(one_line(one.message) for one in said if not issubclass(one.category, UserWarning))
    return Here(ordered, trainer.discovered, [one for one in for_users if one not in told], list(for_authors))


@contextmanager
def quietly() -> Iterator[list[warnings.WarningMessage]]:
    """Collect warnings instead of showing them, keep the log still, and let what others print go to stderr."""
    said: list[warnings.WarningMessage] = []
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield said
            finally:
                said += caught
    finally:
        logging.disable(disabled)
