"""A checkpoint of all processes: each makes its own, all agree that it is made, and the first has what is kept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from leyden.runtime.shards import has_shards, is_shard, whole
from leyden.state import storage
from leyden.state.checkpoint import dump
from leyden.state.processes import differences, made_alone, own_part

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["can_be_saved", "collect", "write_together"]


def can_be_saved(trainer: Trainer) -> bool:
    """Whether this process may save: after an error alone, and only where it has all of the weights."""
    strategy = trainer.strategy
    if not strategy.is_torn or strategy.world_size == 1:
        return True
    return strategy.is_global_zero and not any(map(is_shard, trainer.lightning_module.parameters()))


def collect(trainer: Trainer, weights_only: bool = False) -> dict[str, Any] | None:
    """Return the checkpoint that this process is to write; None where another one does.

    All processes call it at one place, except after an error: then the first may alone, and its checkpoint has nothing
    of the others. Where one process fails to make its part, all raise.
    """
    strategy = trainer.strategy
    if strategy.world_size == 1 or strategy.is_torn:
        checkpoint = dump(trainer, weights_only)
        if strategy.world_size > 1 and not weights_only:
            checkpoint["processes"] = made_alone(strategy.world_size)
        return whole(checkpoint, keep=True) if has_shards(checkpoint) else checkpoint
    error: Exception | None = None
    checkpoint = {}
    try:
        checkpoint = dump(trainer, weights_only)
    except Exception as problem:
        error = problem
    all_well = strategy.reduce_boolean_decision(error is None, all=True)
    if error is not None:
        raise error
    if not all_well:
        raise RuntimeError("another process failed while it gathered its part of the checkpoint.")
    if not weights_only:
        parts = strategy.gather(own_part(checkpoint))
        checkpoint["processes"] = [differences(parts[0], part) for part in parts] if parts else []
    if has_shards(checkpoint):
        checkpoint = whole(checkpoint, keep=strategy.is_global_zero)
    return checkpoint if strategy.is_global_zero else None


def write_together(trainer: Trainer, checkpoint: dict[str, Any] | None, path: str | os.PathLike[str]) -> None:
    """Write what `collect` gave; what keeps the first process from writing is raised in all of them.

    Raises:
        OSError: the checkpoint could not be written; what was at `path` before is untouched.
    """
    error: Exception | None = None
    if checkpoint is not None:
        try:
            storage.save(checkpoint, path)
        except Exception as problem:
            if trainer.world_size == 1:
                raise
            error = problem
    if trainer.world_size == 1 or trainer.strategy.is_torn:
        if error is not None:
            raise error
        return
    told = trainer.strategy.broadcast(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if told:
        raise OSError(f"the first process could not save: {told}")
