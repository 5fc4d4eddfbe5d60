"""What one save does, decided as data by the first process and carried out by all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.errors import SIGTERMException
from leyden.state.remote import is_url
from leyden_checkpoint import files
from leyden_checkpoint.background import RESERVED
from leyden_checkpoint.naming import first_free_name
from leyden_checkpoint.ranking import is_in_top_k, with_entry, worst_of
from leyden_checkpoint.standing import standing_of

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden_checkpoint.model_checkpoint import ModelCheckpoint

__all__ = ["Turn", "decide", "free_path", "saves_after"]


@dataclass(slots=True)
class Turn:
    """What the processes do next; plain data, so that it can be sent to them.

    Attributes:
        error: why nothing can be done; raised in every process.
        path: where the checkpoint goes; empty when none is due, or this one is not among the best.
        last: where the newest checkpoint goes; empty when none is wanted.
        links: `last` becomes a link to `path`.
        standing: attributes of the callback that this changes, by name.
        superseded: what it makes superfluous, removed when all is written.
    """

    error: str = ""
    path: str = ""
    last: str = ""
    links: bool = False
    standing: dict[str, Any] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[str]:
        """What is to be written, in this order."""
        return [path for path in (self.path, self.last) if path]


def decide(
    checkpoint: ModelCheckpoint, metrics: Mapping[str, Any], score: Tensor | None, *, ranked: bool, last: bool
) -> Turn:
    """Decide on a save with these `metrics`: `ranked` a checkpoint is due, `last` the newest is to be kept too."""
    turn = Turn()
    if ranked and checkpoint.save_top_k != 0:
        if checkpoint.monitor is None:
            _keep_newest(checkpoint, metrics, turn)
        elif score is not None:
            _rank(checkpoint, metrics, score, turn)
    if checkpoint.save_last and (last or turn.path):
        _keep_last(checkpoint, metrics, turn)
    return turn


def saves_after(exception: BaseException, checkpoint: ModelCheckpoint, trainer: Trainer) -> bool:
    """Whether `checkpoint` is to save a run that this ended: where it is meant to, and after SIGTERM where none is.

    Then the first does that can save all it takes to go on; a process that is to end has no time for more.
    """
    if checkpoint.save_on_exception or not isinstance(exception, SIGTERMException):
        return checkpoint.save_on_exception
    whole = [one for one in trainer.checkpoint_callbacks if not getattr(one, "save_weights_only", False)]
    return not any(one.saves_on_exception for one in whole) and (whole or trainer.checkpoint_callbacks)[:1] == [
        checkpoint
    ]


def free_path(checkpoint: ModelCheckpoint, metrics: Mapping[str, Any], *, replaces: str = "") -> str:
    """Return where a checkpoint goes; the file it `replaces` may give its name if this process wrote it."""
    reusable = {replaces} & checkpoint.written
    return _free_path(checkpoint, metrics, None, lambda path: path not in reusable and _is_taken(path))


def _is_taken(path: str) -> bool:
    return path in RESERVED or files.exists(path)


def _keep_newest(checkpoint: ModelCheckpoint, metrics: Mapping[str, Any], turn: Turn) -> None:
    previous = checkpoint.best_model_path if checkpoint.save_top_k == 1 else ""
    turn.path = free_path(checkpoint, metrics, replaces=previous)
    turn.superseded += [previous] if previous else []
    turn.standing["best_model_path"] = turn.path


def _rank(checkpoint: ModelCheckpoint, metrics: Mapping[str, Any], score: Tensor, turn: Turn) -> None:
    turn.standing["current_score"] = score
    ranking, k, mode = checkpoint.best_k_models, checkpoint.save_top_k, checkpoint.mode
    if not is_in_top_k(score, ranking, k, mode):
        return
    leaving = worst_of(ranking, mode) if 0 < k <= len(ranking) else ""
    turn.path = free_path(checkpoint, metrics, replaces=leaving)
    ranking, gone = with_entry(turn.path, score, ranking, k, mode)
    turn.superseded += gone
    turn.standing |= standing_of(checkpoint, ranking)


def _keep_last(checkpoint: ModelCheckpoint, metrics: Mapping[str, Any], turn: Turn) -> None:
    previous = checkpoint.last_model_path

    def is_taken(path: str) -> bool:
        return path == turn.path or (path != previous and _is_taken(path))

    turn.last = _free_path(checkpoint, metrics, checkpoint.CHECKPOINT_NAME_LAST, is_taken)
    turn.links = checkpoint.save_last == "link" and bool(turn.path) and not is_url(turn.last)
    turn.superseded += [previous] if previous else []
    turn.standing["last_model_path"] = turn.last


def _free_path(
    checkpoint: ModelCheckpoint, metrics: Mapping[str, Any], template: str | None, is_taken: Callable[[str], bool]
) -> str:
    def name_of(version: int | None) -> str:
        return checkpoint.format_checkpoint_name(metrics, template, version)

    if not checkpoint.enable_version_counter:
        return name_of(None)
    return first_free_name(name_of, is_taken, checkpoint.STARTING_VERSION)
