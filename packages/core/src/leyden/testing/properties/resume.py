"""A run that is cut anywhere and gone on with ends as one that nobody cut."""

from __future__ import annotations

import shutil

from leyden.hooks.findings import overrides
from leyden.testing.differences import first_difference
from leyden.testing.report import Broken, NotChecked
from leyden.testing.runs import RAISED, Exam, Outcome, described
from leyden.testing.saving import CHECKPOINT, Saved, refuse_company, saved_run

__all__ = ["resume"]


def resume(exam: Exam) -> str:
    """Weights, optimizers, states of callbacks, progress, random numbers, metrics and logged rows are the same."""
    _, made = saved_run(exam)
    if not made:
        raise NotChecked("the fit ended before anything could be saved")
    for number, saved in enumerate(made):
        try:
            resumed = _resumed(exam, saved, seed=50 + number)
        except RAISED as error:
            raise Broken(f"resumed from a checkpoint made {saved.when} it raises {described(error)}") from error
        if differs := _difference(exam, resumed, exam.straight, saved.rows):
            refuse_company(exam)
            raise Broken(
                f"resumed from a checkpoint made {saved.when}: {differs} at the end of the run that nobody cut. Keep "
                f"in state_dict what later steps depend on{_at_epoch_start(exam)}; name what is never twice the same, "
                "such as seconds, in varies=[...]"
            )
    return ""


def _at_epoch_start(exam: Exam) -> str:
    """Say what those do not think of who set up something there."""
    callback = exam.straight.callbacks[0]
    for hook in ("on_train_epoch_start", "on_epoch_start"):
        if overrides(callback, hook):
            return (
                f", and set what no checkpoint has, such as requires_grad, in on_train_start too: {hook} does not come "
                "again for an epoch that is gone on with"
            )
    return ""


def _resumed(exam: Exam, saved: Saved, seed: int) -> Outcome:
    folder = exam.empty_folder()
    shutil.copytree(saved.folder, folder, symlinks=True, dirs_exist_ok=True)
    (folder / CHECKPOINT).unlink()
    return exam.fit([exam.claims.fresh()], seed=seed, ckpt_path=saved.folder / CHECKPOINT)


def _difference(exam: Exam, resumed: Outcome, straight: Outcome, rows: int) -> str:
    clean = exam.without_varying
    return (
        first_difference(clean(resumed.end), clean(straight.end))
        or first_difference(resumed.metrics, straight.metrics)
        or first_difference(clean(straight.rows[:rows] + resumed.rows), clean(straight.rows))
    )
