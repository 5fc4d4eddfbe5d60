"""Every entry point, and a fit set up in each of the ways that callbacks tend to forget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.errors import MisconfigurationException
from leyden.testing.report import Broken, NotChecked
from leyden.testing.runs import CannotRun, Exam, described

__all__ = ["stages"]

_SHORT: dict[str, Any] = {"max_epochs": 1, "val_check_interval": None}


def stages(exam: Exam) -> str:
    """Each entry point runs, alone and after a fit, also in a fast run, without a logger and with several loaders.

    A `MisconfigurationException` before the first batch is an answer as well, but not to the plain fit.
    """
    claims = exam.claims
    notes = []
    ways: dict[str, Callable[[], object]] = {}
    if "fit" in claims.stages:
        try:
            _ = exam.straight
        except CannotRun as error:
            raise Broken(str(error)) from error
        ways = {
            "with a sanity check and several validation dataloaders": lambda: _fit(
                exam, {"val_loaders": 2}, num_sanity_val_steps=2
            ),
            "with manual optimisation": lambda: _fit(
                exam, {"automatic_optimization": False}, accumulate_grad_batches=1
            ),
            "with fast_dev_run": lambda: _fit(exam, {}, fast_dev_run=True),
            "without a logger": lambda: _fit(exam, {}, logger=False),
            "without accumulation and validation": lambda: _fit(
                exam, {}, accumulate_grad_batches=1, limit_val_batches=0
            ),
        }
    for stage in claims.stages[claims.stages.index("fit") + 1 :] if claims.stages[:1] == ["fit"] else claims.stages:
        if stage != "fit":
            ways[f"by {stage}"] = lambda stage=stage: _evaluate(exam, stage)  # type: ignore[misc]
    for name, run in ways.items():
        try:
            run()
        except NotChecked as error:
            notes.append(f"not {name}: {error}")
        except _Refused as error:
            notes.append(f"it refuses to run {name}: {error}")
        except Exception as error:
            raise Broken(f"{name} it raises {described(error)}") from error
    return "; ".join(notes)


class _Refused(Exception):
    """It said that it cannot work like this, before anything was trained."""


def _fit(exam: Exam, options: dict[str, Any], **arguments: Any) -> None:
    module = exam.module(**options)
    exam.empty_folder()
    settings = {**_SHORT, **arguments}
    if settings.get("fast_dev_run"):
        settings.pop("max_epochs")
    trainer = None
    try:
        trainer, _ = exam.trainer([exam.claims.fresh()], **settings)
        exam.seeded()
        trainer.fit(module)
    except MisconfigurationException as error:
        if trainer is not None and trainer.global_step:
            raise
        raise _Refused(" ".join(str(error).split())) from error


def _evaluate(exam: Exam, stage: str) -> None:
    exam.empty_folder()
    trainer = None
    try:
        trainer, _ = exam.trainer([exam.claims.fresh()])
        exam.seeded()
        getattr(trainer, stage)(exam.module())
    except MisconfigurationException as error:
        raise _Refused(" ".join(str(error).split())) from error
