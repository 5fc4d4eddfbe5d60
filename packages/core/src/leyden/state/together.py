"""A checkpoint of all processes: each makes its own, all agree that it is made, and the first has what is kept."""

from __future__ import annotations

import os
import threading
import traceback
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import Tensor

from leyden.errors import ProcessFailedError
from leyden.runtime.shards import has_shards, is_shard, whole
from leyden.runtime.strategy import Strategy
from leyden.state import remote, storage
from leyden.state.checkpoint import dump
from leyden.state.processes import differences, made_alone, own_part
from leyden.state.shares import PLACES, Shares, parted

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["can_be_saved", "collect", "note_what_is_lost", "write_together"]


_last: WeakKeyDictionary[Strategy, ReferenceType[threading.Event]] = WeakKeyDictionary()
"""When the last write is over: writes take turns in one group, in the same order in all processes."""


def can_be_saved(trainer: Trainer) -> bool:
    """Whether this process may save: after an error alone, and only where it has all of the weights."""
    strategy = trainer.strategy
    if not strategy.is_torn or strategy.world_size == 1:
        return True
    return strategy.is_global_zero and not _lacks_weights(trainer)


def note_what_is_lost(trainer: Trainer, exception: BaseException) -> None:
    """Say on `exception` that nothing was saved after it, where no process has all of the weights, and what there is.

    Processes that an error has separated may be at different steps, so that their shares would not fit together.
    """
    strategy = trainer.strategy
    if not (strategy.is_torn and strategy.world_size > 1 and _lacks_weights(trainer)):
        return
    newest = _newest(trainer)
    note = (
        "Nothing was saved after this error: each process has a share of the weights alone, and they no longer act "
        "together. "
        + (f"The newest checkpoint is {newest}." if newest else "There is no earlier checkpoint of this run.")
    )
    if note not in getattr(exception, "__notes__", ()):
        exception.add_note(note)


def _lacks_weights(trainer: Trainer) -> bool:
    return any(map(is_shard, trainer.lightning_module.parameters()))


def _newest(trainer: Trainer) -> str | None:
    """Return the newest checkpoint of those that callbacks know of; else the one that the run has begun with."""
    known = [
        path
        for callback in trainer.checkpoint_callbacks
        for path in (
            getattr(callback, "last_model_path", ""),
            getattr(callback, "best_model_path", ""),
            *getattr(callback, "best_k_models", ()),
        )
    ]
    there = [path for path in map(str, known) if path and storage.exists(path)]
    return max(there, key=_written_at, default=None if trainer.ckpt_path is None else str(trainer.ckpt_path))


def _written_at(path: str) -> float:
    local = remote.local_path(path)
    return remote.written_at(path) if local is None else os.stat(local).st_mtime


def collect(trainer: Trainer, weights_only: bool = False) -> dict[str, Any] | Shares | None:
    """Return the checkpoint that this process is to write, or its part of one; None where another process writes all.

    All processes call it at one place, except after an error: then the first may alone, and its checkpoint has nothing
    of the others. Where one process fails to make its part, all raise.
    """
    strategy = trainer.strategy
    if (strategy.world_size == 1 and strategy.state_dict_type != "sharded") or strategy.is_torn:
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
    if not strategy.reduce_boolean_decision(error is None, all=True):
        raise _failure(strategy, error)
    shares = strategy.state_dict_type == "sharded" and has_shards(checkpoint)
    alone = _take_own_gradients(checkpoint) if shares else {}
    if not weights_only:
        parts = strategy.gather((own_part(checkpoint), list(alone)))
        checkpoint["processes"] = [differences(parts[0][0], part) for part, _ in parts]
    if shares:
        return _shares(trainer, checkpoint, alone, [names for _, names in parts] if not weights_only else [])
    if has_shards(checkpoint):
        checkpoint = whole(checkpoint, keep=strategy.is_global_zero)
    return checkpoint if strategy.is_global_zero else None


def _failure(strategy: Strategy, error: Exception | None) -> Exception:
    """Return `error`, this process's own, or where it has none what says which process failed, and how."""
    told = strategy.gather(None if error is None else "".join(traceback.format_exception(error)))
    rank, text = strategy.broadcast(next(((rank, text) for rank, text in enumerate(told) if text), None))
    return error or ProcessFailedError(
        f"Process {rank} of {strategy.world_size} failed as it gathered its part of a checkpoint, so that process "
        f"{strategy.global_rank} cannot go on. What process {rank} raised:\n{text}"
    )


def _take_own_gradients(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Take out the gradients that are this process's alone, which are as large as the module: each writes its own."""
    gradients: dict[str, Any] = checkpoint.get("gradients") or {}
    alone = {name: gradient for name, gradient in gradients.items() if not is_shard(gradient)}
    if alone:
        checkpoint["gradients"] = {name: one for name, one in gradients.items() if name not in alone}
    return alone


def _shares(trainer: Trainer, checkpoint: dict[str, Any], alone: dict[str, Tensor], names: list[list[str]]) -> Shares:
    strategy = trainer.strategy
    plain, tensors, places = parted(checkpoint)
    tensors |= {_name(strategy.global_rank, name): gradient for name, gradient in alone.items()}
    if strategy.is_global_zero:
        for name in names[0] if names else ():
            plain["gradients"] = {**plain["gradients"], name: None}
            places.append([["gradients", name], _name(0, name)])
        for rank, own in enumerate(names[1:], start=1):
            changed = plain["processes"][rank]["changed"]
            for name in own:
                places.append([["processes", rank, "changed", len(changed), 1], _name(rank, name)])
                changed.append([["gradients", name], None])
        plain[PLACES] = places
    first = strategy.is_global_zero
    shares = Shares(plain if first else None, tensors, strategy.group_beside(), _last.get(strategy))
    _last[strategy] = ref(shares.over)
    return shares


def _name(rank: int, name: str) -> str:
    return f"gradients of process {rank}.{name}"


def write_together(trainer: Trainer, checkpoint: dict[str, Any] | Shares | None, path: str | os.PathLike[str]) -> None:
    """Write what `collect` gave; what keeps the first process from writing is raised in all of them.

    Raises:
        OSError: the checkpoint could not be written; what was at `path` before is untouched.
    """
    if isinstance(checkpoint, Shares):
        storage.save(checkpoint, path)
        return
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
