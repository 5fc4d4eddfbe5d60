"""A run that saves where the cuts are, and what a run that goes on from there finds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from leyden.callback import Callback
from leyden.state.storage import load
from leyden.testing.differences import first_difference
from leyden.testing.report import NotChecked
from leyden.testing.runs import Exam, KeptRows, Outcome
from leyden.trainer import Trainer

__all__ = ["CHECKPOINT", "Saved", "Saves", "difference", "refuse_company", "saved_run"]


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

    def __init__(self, exam: Exam, points: dict[_Point, str]) -> None:
        self._exam, self._points = exam, dict(points)
        self.made: list[Saved] = []

    def _at(self, trainer: Trainer, event: str) -> None:
        if trainer.sanity_checking:
            return
        epoch = trainer.current_epoch
        for point in ((event, epoch, trainer.fit_loop.batch_idx), (event, epoch, None)):
            if (when := self._points.pop(point, None)) is not None:
                trainer.plan.when_done(partial(self._save, trainer, when))

    def _save(self, trainer: Trainer, when: str) -> None:
        rows = sum(len(logger.rows) for logger in trainer.loggers if isinstance(logger, KeptRows))
        saved = Saved(when, self._exam.folder / f"saved-{len(self.made)}", rows)
        self.made.append(saved)
        run = self._exam.run_folder  # not the working folder, which a callback may have left
        try:
            trainer.save_checkpoint(run / CHECKPOINT)
        except Exception as error:
            saved.error = error
        else:
            shutil.copytree(run, saved.folder, symlinks=True)
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
        saves = Saves(exam, points)
        exam.kept["saved"] = exam.fit([exam.claims.fresh(), saves]), saves.made
    found: tuple[Outcome, list[Saved]] = exam.kept["saved"]
    return found


def difference(exam: Exam, one: Outcome, other: Outcome) -> str:
    """Return where two runs are not the same at their end, or in what they logged."""
    clean = exam.without_varying
    return first_difference(clean(one.end), clean(other.end)) or first_difference(clean(one.rows), clean(other.rows))


def refuse_company(exam: Exam) -> None:
    """Raise `NotChecked` where a `Saves` that saves nothing changes the run: then not what is saved is to blame."""
    exam.empty_folder()
    if difference(exam, exam.fit([exam.claims.fresh(), Saves(exam, {})]), exam.straight):
        raise NotChecked("other callbacks in the trainer change what it does: mend independence first")


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
