"""A run that saves where the cuts are, and what a run that goes on from there finds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.callback import Callback
from leyden.state.storage import load
from leyden.testing.runs import Exam, KeptRows, Outcome
from leyden.trainer import Trainer

__all__ = ["Saved", "Saves", "saved_run"]

_POINTS = {
    ("batch", 0, 0): "after the first batch",
    ("epoch", 0, 7): "after the first epoch",
    ("batch", 1, 2): "in mid-epoch and mid-accumulation",
    ("batch", 1, 3): "before a validation",
    ("validation_batch", 1, 3): "in a validation",
    ("validation", 1, 3): "after a validation",
}
"""Events with the epoch and the batch, counted from 0, of the fit with which callbacks are checked by default."""


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


class Saves(Callback):
    """Saves at each of the points, when all callbacks have had the hook."""

    position = "checkpoint"

    def __init__(self, folder: Path, points: dict[tuple[str, int, int], str]) -> None:
        self._folder, self._points = folder, points
        self.made: list[Saved] = []
        self._done: set[tuple[str, int, int]] = set()

    def _at(self, trainer: Trainer, event: str) -> None:
        point = (event, trainer.current_epoch, trainer.fit_loop.batch_idx)
        if point in self._points and point not in self._done and not trainer.sanity_checking:
            self._done.add(point)
            trainer.plan.when_done(lambda: self._save(trainer, self._points[point]))

    def _save(self, trainer: Trainer, when: str) -> None:
        logger = trainer.loggers[0]
        rows = len(logger.rows) if isinstance(logger, KeptRows) else 0
        saved = Saved(when, self._folder / f"saved-{len(self.made)}", rows)
        self.made.append(saved)
        try:
            trainer.save_checkpoint(CHECKPOINT)
        except Exception as error:
            saved.error = error
        else:
            shutil.copytree(".", saved.folder)
            Path(CHECKPOINT).unlink()

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
        _ = exam.straight
        exam.empty_folder()
        saves = Saves(exam.folder, _POINTS)
        exam.kept["saved"] = exam.fit([exam.claims.fresh(), saves]), saves.made
    found: tuple[Outcome, list[Saved]] = exam.kept["saved"]
    return found
