"""Every entry point, and a fit set up in each of the ways that callbacks tend to forget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.errors import MisconfigurationException
from leyden.testing.report import Broken, NotChecked
from leyden.testing.runs import RAISED, CannotRun, Exam, described

__all__ = ["stages"]

_SHORT: dict[str, Any] = {"max_epochs": 1, "val_check_interval": None}

_WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "with a sanity check and several validation dataloaders": ({"val_loaders": 2}, {"num_sanity_val_steps": 2}),
    "with manual optimisation": ({"automatic_optimization": False}, {"accumulate_grad_batches": 1}),
    "with fast_dev_run": ({}, {"fast_dev_run": True}),
    "without a logger": ({}, {"logger": False}),
    "without accumulation and validation": ({}, {"accumulate_grad_batches": 1, "limit_val_batches": 0}),
}
"""Ways to set up a fit: what the module and what the trainer is given."""


def stages(exam: Exam) -> str:
    """Each entry point runs, alone and after a fit, also in a fast run, without a logger and with several loaders.

    A `MisconfigurationException` is an answer as well, but not to the plain fit.
    """
    claims = exam.claims
    notes = []
    ways: dict[str, Callable[[], object]] = {}
    if "fit" in claims.stages:
        try:
            _ = exam.straight
        except CannotRun as error:
            raise Broken(str(error)) from error
        ways = {name: partial(_fit, exam, *how) for name, how in _WAYS.items()}
    ways |= {f"by {stage}": partial(_run, exam, stage, {}, {}) for stage in claims.stages if stage != "fit"}
    for name, run in ways.items():
        try:
            run()
        except NotChecked as error:
            notes.append(f"not {name}: {error}")
        except _Refused as error:
            notes.append(f"it refuses to run {name}: {error}")
        except RAISED as error:
            raise Broken(f"{name} it raises {described(error)}") from error
    return "; ".join(notes)


class _Refused(Exception):
    """It said that it cannot work like this."""


def _fit(exam: Exam, options: dict[str, Any], arguments: dict[str, Any]) -> None:
    settings = {**_SHORT, **arguments}
    if settings.get("fast_dev_run"):
        settings.pop("max_epochs")
    _run(exam, "fit", options, settings)


def _run(exam: Exam, entry_point: str, options: dict[str, Any], settings: dict[str, Any]) -> None:
    exam.empty_folder()
    exam.seeded()
    module = exam.module(**options)
    try:
        trainer, _ = exam.trainer([exam.claims.fresh()], **settings)
        getattr(trainer, entry_point)(module)
    except MisconfigurationException as error:
        raise _Refused(" ".join(str(error).split())) from error
