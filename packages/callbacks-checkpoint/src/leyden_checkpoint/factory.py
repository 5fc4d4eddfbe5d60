"""What installing this family attaches to a Trainer by itself."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["make_callbacks"]


def make_callbacks(settings: Mapping[str, Any] | None = None) -> list[Callback]:
    """One `ModelCheckpoint`, made with `settings` as its arguments; without any it keeps the last checkpoint.

    Nobody asked for it, so that a full disk does not stop the training: it warns of every checkpoint that could not be
    written and makes up for it with the next. The core leaves it out where the user gave a `Checkpoint` or switched
    checkpointing off.
    """
    from leyden_checkpoint import ModelCheckpoint

    arguments = {"on_save_error": "warn", **(settings or {})}
    known = list(signature(ModelCheckpoint).parameters)
    for name in arguments:
        if name not in known:
            raise MisconfigurationException(f"ModelCheckpoint has no argument {name!r}.{did_you_mean(name, known)}")
    return [ModelCheckpoint(**arguments)]
