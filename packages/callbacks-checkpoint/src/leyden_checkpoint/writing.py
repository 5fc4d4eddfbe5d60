"""Carrying out a save: write what is wanted, remember it, and only then remove what it makes superfluous."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leyden.rank_zero import rank_zero_info
from leyden_checkpoint import files

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden_checkpoint.model_checkpoint import ModelCheckpoint
    from leyden_checkpoint.saving import Turn

__all__ = ["adopt", "carry_out"]


def carry_out(checkpoint: ModelCheckpoint, trainer: Trainer, turn: Turn) -> None:
    """Do what was decided, in every process.

    The callback's attributes change first, since the files hold them; where writing fails they are set back, so that
    nothing is remembered that was not written, and nothing is removed.
    """
    after = dict(turn.standing)
    if turn.path or turn.last:
        after["saved_at"] = (trainer.current_epoch, trainer.global_step)
    before = {name: getattr(checkpoint, name) for name in (*after, "last_model_path")}
    adopt(checkpoint, after)
    try:
        if turn.path:
            _write(checkpoint, trainer, turn.path)
            before = {"last_model_path": before["last_model_path"]}  # the ranking is true from here on
        if turn.last:
            _write(checkpoint, trainer, turn.last, linked_to=turn.path if turn.links else "")
    except BaseException:
        adopt(checkpoint, before)
        raise
    _remove(checkpoint, trainer, [path for path in turn.superseded if path not in (turn.path, turn.last)])
    if checkpoint.verbose:
        _announce(checkpoint, turn)


def adopt(checkpoint: ModelCheckpoint, standing: Mapping[str, Any]) -> None:
    """Set the callback's attributes named in `standing`."""
    for name, value in standing.items():
        setattr(checkpoint, name, value)


def _write(checkpoint: ModelCheckpoint, trainer: Trainer, path: str, *, linked_to: str = "") -> None:
    if linked_to:
        if trainer.is_global_zero:
            files.link(linked_to, path)
        trainer.strategy.barrier()
    else:
        trainer.save_checkpoint(path, checkpoint.save_weights_only)
    checkpoint.written.add(path)
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.after_save_checkpoint(checkpoint)


def _remove(checkpoint: ModelCheckpoint, trainer: Trainer, superseded: list[str]) -> None:
    """Remove those that this process wrote; what an earlier run left is not ours to delete."""
    for path in checkpoint.written.intersection(superseded):
        if trainer.is_global_zero:
            files.remove(path)
    checkpoint.written.difference_update(superseded)


def _announce(checkpoint: ModelCheckpoint, turn: Turn) -> None:
    score = turn.standing.get("current_score")
    told = "" if score is None else f" with {checkpoint.monitor}={float(score):.5f}"
    if turn.path:
        rank_zero_info(f"Saved {turn.path}{told}")
    elif score is not None:
        rank_zero_info(f"A checkpoint{told} is not among the best {checkpoint.save_top_k}: not saved")
    if turn.last:
        rank_zero_info(f"{'Linked' if turn.links else 'Saved'} the newest as {turn.last}")
