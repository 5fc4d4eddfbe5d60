"""How a callback stands: its ranking and what follows from it, kept in checkpoints, taken up by a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden_checkpoint import files
from leyden_checkpoint.ranking import best_of, worst_of

if TYPE_CHECKING:
    from leyden.callback import Checkpoint
    from leyden_checkpoint.model_checkpoint import ModelCheckpoint

__all__ = ["KEPT", "adopt", "after_restart", "standing_of"]

KEPT = (
    "best_model_path",
    "best_model_score",
    "best_k_models",
    "kth_best_model_path",
    "kth_value",
    "current_score",
    "last_model_path",
    "saved_at",
    "waits_for_score",
    "unwritten",
)
"""Attributes that a checkpoint holds."""


def standing_of(checkpoint: ModelCheckpoint, ranking: dict[str, Tensor]) -> dict[str, Any]:
    """Return the attributes that follow from a ranking, by name; the k-th is known once there are k."""
    best = best_of(ranking, checkpoint.mode) if ranking else ""
    k = checkpoint.save_top_k
    kth = worst_of(ranking, checkpoint.mode) if ranking and (k == -1 or len(ranking) >= k) else ""
    return {
        "best_k_models": ranking,
        "best_model_path": best,
        "best_model_score": ranking[best] if best else None,
        "kth_best_model_path": kth,
        "kth_value": ranking[kth] if kth else checkpoint.worst_score,
    }


def after_restart(checkpoint: ModelCheckpoint) -> tuple[dict[str, Any], list[str]]:
    """Compare what is remembered with what is on the disk: return what changes, and the checkpoints that are gone.

    A folder may have been moved between two runs: a checkpoint is also looked for in the callback's own folder. No more
    than `save_top_k` are remembered, the worst being forgotten; their files stay.
    """
    found = {path: _find(path, checkpoint.dirpath) for path in _remembered(checkpoint)}
    gone = [path for path, place in found.items() if not place]
    standing: dict[str, Any] = {"last_model_path": found.get(checkpoint.last_model_path, "")}
    if checkpoint.monitor is None:
        standing["best_model_path"] = found.get(checkpoint.best_model_path, "")
    else:
        ranking = {found[path]: score for path, score in checkpoint.best_k_models.items() if found[path]}
        while len(ranking) > checkpoint.save_top_k >= 0:
            del ranking[worst_of(ranking, checkpoint.mode)]
        standing |= standing_of(checkpoint, ranking)
    return standing, gone


def adopt(checkpoint: Checkpoint, standing: Mapping[str, Any]) -> None:
    """Set the callback's attributes named in `standing`."""
    for name, value in standing.items():
        setattr(checkpoint, name, value)


def _remembered(checkpoint: ModelCheckpoint) -> Mapping[str, None]:
    paths = [*checkpoint.best_k_models, checkpoint.best_model_path, checkpoint.last_model_path]
    return dict.fromkeys(path for path in paths if path)


def _find(path: str, folder: str | None) -> str:
    moved_to = files.join(folder or "", files.name_in(path))
    return next((place for place in (path, moved_to) if files.exists(place)), "")
