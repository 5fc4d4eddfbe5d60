"""A run that saves where the cuts are, and what a run that goes on from there finds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from leyden.callback import Callback
from leyden.state.storage import load
from leyden.testing.runs import Exam, KeptRows, Outcome
from leyden.trainer import Trainer

__all__ = ["Saved", "Saves", "saved_run"]


@dataclass
class Saved:
    """A checkpoint that was made in a run, or what making it raised.

    Attributes:
        when: in words.
        folder: a copy of the working folder of then, the checkpoint in it.
        rows: how many the logger had.
    """

    when: str
    folder: Path
    rows: int
    error: Exception | None = None

    @property
    def checkpoint(self) -> dict[str, Any]:
        """Its content, read without running code."""
        content: dict[str, Any] = load(self.folder / CHECKPOINT)
        return content


CHECKPOINT = "saved-by-the-check.ckpt"


_Point: TypeAlias = tuple[str, int, int | None]
"""An event, the epoch and the batch in it, both counted from 0; None for the first such event of an epoch."""


class Saves(Callback):
    """Saves at each of the points, when all callbacks have had the hook."""

    position = "checkpoint"

    def __init__(self, folder: Path, points: dict[_Point, str]) -> None:
        self._folder, self._points = folder, dict(points)
        self.made: list[Saved] = []

    def _at(self, trainer: Trainer, event: str) -> None:
        if trainer.sanity_checking:
            return
        epoch = trainer.current_epoch
        for point in ((event, epoch, trainer.fit_loop.batch_idx), (event, epoch, None)):
            if (when := self._points.pop(point, None)) is not None:
                trainer.plan.when_done(partial(self._save, trainer, when))

    def _save(self, trainer: Trainer, when: str) -> None:
        logger = trainer.loggers[0]
        rows = len(logger.rows) if isinstance(logger, KeptRows) else 0
        saved = Saved(when, self._folder / f"saved-{len(self.made)}", rows)
        self.made.append(saved)
        run = self._folder / "run"  # and not the working folder: a callback may have gone elsewhere
        try:
            trainer.save_checkpoint(run / CHECKPOINT)
        except Exception as error:
            saved.error = error
        else:
            shutil.copytree(run, saved.folder)
            (run / CHECKPOINT).unlink()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._at(trainer, "batch")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._at(trainer, "validation_batch")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._at(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._at(trainer, "epoch")


def saved_run(exam: Exam) -> tuple[Outcome, list[Saved]]:
    """Return the plain run once more, with the checkpoints that were made in it."""
    if "saved" not in exam.kept:
        points = _points(exam.straight.trainer)
        exam.empty_folder()
        saves = Saves(exam.folder, points)
        exam.kept["saved"] = exam.fit([exam.claims.fresh(), saves]), saves.made
    found: tuple[Outcome, list[Saved]] = exam.kept["saved"]
    return found


def _points(trainer: Trainer) -> dict[_Point, str]:
    """Return where to save in a fit such as this one was."""
    epoch = max(0, trainer.current_epoch // 2)
    window = max(1, trainer.accumulate_grad_batches)
    middle = max(1, int(trainer.num_training_batches / 2) // window * window)
    return {
        ("batch", 0, 0): "after the first batch",
        ("epoch", 0, None): "after the first epoch",
        ("batch", epoch, middle - 2): "in mid-epoch, in mid-accumulation where steps have several batches",
        ("batch", epoch, middle - 1): "in mid-epoch, after a step",
        ("validation_batch", epoch, None): "in a validation",
        ("validation", epoch, None): "after a validation",
    }
