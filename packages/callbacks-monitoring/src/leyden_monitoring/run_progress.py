"""How far a run has come, in numbers that any thread may read: no tensor is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leyden.run_state import RunningStage

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["RunProgress", "progress_of"]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Where a trainer stands.

    Attributes:
        stage: "train", "sanity_check", "validate", "test" or "predict"; "" between runs.
        epoch: the epoch now running, from 0.
        step: optimizer steps taken.
        batches_done: batches done in this epoch or this pass, over all of its dataloaders.
        batches: batches of this epoch or this pass; None where that is unknown.
    """

    stage: str
    epoch: int
    step: int
    batches_done: int
    batches: int | None


def progress_of(trainer: Trainer) -> RunProgress:
    """Return where `trainer` stands now.

    Example:
        >>> import leyden
        >>> progress_of(leyden.Trainer(logger=False, discover_callbacks=False))
        RunProgress(stage='', epoch=0, step=0, batches_done=0, batches=0)
    """
    stage = trainer.state.stage
    done, batches = _batches(trainer, stage)
    return RunProgress("" if stage is None else str(stage), trainer.current_epoch, trainer.global_step, done, batches)


def _batches(trainer: Trainer, stage: RunningStage | None) -> tuple[int, int | None]:
    """Return how many batches are done and how many there are."""
    if stage is None or stage is RunningStage.TRAINING:
        return trainer.fit_loop.batches_done, _known(trainer.fit_loop.num_batches)
    if stage is RunningStage.TESTING:
        loop, totals = trainer.test_loop, trainer.num_test_batches
    elif stage is RunningStage.PREDICTING:
        return _over_loaders(
            trainer.num_predict_batches, trainer.predict_loop.dataloader_idx, trainer.predict_loop.batches_done
        )
    else:
        loop = trainer.fit_loop.val_loop if trainer.state.fn == "fit" else trainer.validate_loop
        totals = trainer.num_sanity_val_batches if stage is RunningStage.SANITY_CHECKING else trainer.num_val_batches
    return _over_loaders(totals, loop.dataloader_idx, loop.batches_done)


def _over_loaders(totals: list[int | float], dataloader_idx: int, done: int) -> tuple[int, int | None]:
    before = _known(sum(totals[:dataloader_idx]))
    return done + (before or 0), _known(sum(totals))


def _known(batches: int | float) -> int | None:
    return None if batches == math.inf else int(batches)
