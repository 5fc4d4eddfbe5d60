"""The runs that properties are read from: real fits of a small module, shared by all that can share them."""

from __future__ import annotations

import copy
import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from leyden.callback import Callback
from leyden.hooks.binding import Call
from leyden.loggers.csv_logs import CSVLogger
from leyden.module import LightningModule
from leyden.seed import seed_generators
from leyden.state.checkpoint import dump
from leyden.state.rng import collect_rng
from leyden.testing.claims import Claims
from leyden.testing.classifier import TinyClassifier
from leyden.testing.differences import without_varying
from leyden.testing.report import NotChecked
from leyden.testing.surroundings import Surroundings
from leyden.trainer import Trainer

__all__ = ["CORE", "RAISED", "CannotRun", "Exam", "ExaminedTrainer", "Outcome", "Watch", "no_watch"]

Watch = Callable[[object, str, Call], Call]
"""Wraps the call of a hook when the plan is compiled: gets owner, hook and call, returns the call to make."""

TRAINER: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": 3,
    "accumulate_grad_batches": 2,
    "val_check_interval": 0.5,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 5,
    "discover_callbacks": False,
}


RAISED = (Exception, SystemExit)
"""What a callback may raise; Ctrl-C is the user's."""


class CannotRun(Exception):
    """A plain fit with the callback raises, so that nothing can be read from it."""


def no_watch(owner: object, hook: str, call: Call) -> Call:
    return call


class ExaminedTrainer(Trainer):
    """A trainer whose calls of hooks are seen by `watch`."""

    def __init__(self, watch: Watch, **arguments: Any) -> None:
        self._watch = watch
        super().__init__(**arguments)

    def _wrap(self, owner: object, hook: str, call: Call) -> Call:
        return super()._wrap(owner, hook, self._watch(owner, hook, call))


class KeptRows(CSVLogger):
    """Keeps what it is given, too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))
        super().log_metrics(metrics, step)


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        end: what a checkpoint of its end holds.
        rows: steps and metrics that the logger was given.
    """

    trainer: Trainer
    module: LightningModule
    callbacks: list[Callback]
    end: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[int | None, dict[str, Any]]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class Exam:
    """One callback's check: what is claimed of it, a folder, and the runs made so far."""

    claims: Claims
    folder: Path
    surroundings: Surroundings
    kept: dict[str, Any] = field(default_factory=dict)

    # -- runs -------------------------------------------------------------------------------------------------------

    def module(self, **options: Any) -> LightningModule:
        """Return a fresh module; `options` are those of `TinyClassifier`, which another module does not have."""
        if self.claims.module is None:
            return TinyClassifier(**options)
        if options:
            raise NotChecked(f"module= gives modules without {', '.join(options)}")
        module = self.claims.module()
        if not isinstance(module, LightningModule):
            raise TypeError(f"module() returned {module!r:.80}; expected a LightningModule.")
        return module

    def seeded(self, seed: int = 1) -> None:
        seed_generators(seed)
        random.seed(seed)

    @property
    def run_folder(self) -> Path:
        return self.folder / "run"

    def empty_folder(self) -> Path:
        """Make the working folder of the next run: each has the same, since states may hold paths.

        What a run before it left in the process is put back, or else it would be thought of as there before.
        """
        self.surroundings.put_back()
        run = self.run_folder
        os.chdir(self.folder)
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        os.chdir(run)
        return run

    def trainer(
        self, callbacks: list[Callback], *, watch: Watch = no_watch, **arguments: Any
    ) -> tuple[ExaminedTrainer, KeptRows]:
        logger = KeptRows(self.run_folder)
        given = {"logger": logger, "default_root_dir": self.run_folder, **TRAINER, **self.claims.trainer, **arguments}
        return ExaminedTrainer(watch, callbacks=callbacks, **given), logger

    def fit(
        self,
        callbacks: list[Callback],
        *,
        module: LightningModule | None = None,
        seed: int = 1,
        watch: Watch = no_watch,
        ckpt_path: Path | None = None,
        **arguments: Any,
    ) -> Outcome:
        """Fit in the present folder, with this seed."""
        trainer, logger = self.trainer(callbacks, watch=watch, **arguments)
        self.seeded(seed)
        made = self.module()  # in any case, since it draws
        module = made if module is None else module
        outcome = Outcome(trainer, module, callbacks, rows=logger.rows)
        trainer.fit(module, ckpt_path=ckpt_path)
        outcome.end = self.end_of(trainer)
        outcome.metrics = self.without_varying(dict(trainer.callback_metrics))
        return outcome

    def end_of(self, trainer: Trainer) -> dict[str, Any]:
        """Return what a checkpoint would hold; where none can be made, which `safe_state` tells, what that needs no
        callback for.
        """
        try:
            end = copy.deepcopy(dump(trainer))
        except Exception:
            optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
            weights = trainer.lightning_module.state_dict()
            return copy.deepcopy({"state_dict": weights, "optimizer_states": optimizers, "rng": collect_rng()})
        end.pop("loggers", None)
        end["loops"]["fit_loop"].pop("draws", None)  # of loaders that will not be read again
        return end

    def without_varying(self, value: Any) -> Any:
        return without_varying(value, self.claims.varies)

    # -- the ones that several properties read ------------------------------------------------------------------------

    @property
    def straight(self) -> Outcome:
        """A plain fit with the callback alone.

        Raises:
            CannotRun: it raises.
            NotChecked: fit is not among the stages in which it works.
        """
        if "fit" not in self.claims.stages:
            raise NotChecked("read from a fit, which is not among its stages")
        if isinstance(found := self._straight, CannotRun):
            raise found
        return found

    @cached_property
    def _straight(self) -> Outcome | CannotRun:
        from leyden.testing.costs import Costs

        self.empty_folder()
        costs = self.kept["costs"] = Costs(self)
        try:
            callback = self.claims.fresh()
            return self.fit([callback], watch=costs.watch(callback))
        except RAISED as error:
            cannot = CannotRun(f"a plain fit raises {described(error)}")
            cannot.__cause__ = error
            return cannot

    @cached_property
    def bare(self) -> Outcome:
        """The same fit without it."""
        self.empty_folder()
        return self.fit([])

    @property
    def every_n_steps(self) -> int:
        """How many steps lie between two at which it reports."""
        given = self.claims.reports_every_n_steps
        if given is not None:
            return given
        every: int = {**TRAINER, **self.claims.trainer}["log_every_n_steps"]
        return every

    def is_reporting(self, trainer: Trainer) -> bool:
        """Whether the batch that is at work is one at which a callback may report, however it counts."""
        step, batch, n = trainer.global_step, trainer.fit_loop.batch_idx, self.every_n_steps
        return n == 1 or any(count % n == 0 for count in (step, step + 1, batch, batch + 1))


def described(error: BaseException) -> str:
    """Return an error in a line, with the place it came from outside torch and Leyden."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    place = place_of(error)
    return f"{text:.300}{f' ({place})' if place else ''}"


def place_of(error: BaseException) -> str:
    """Return ``file:line`` of the innermost frame that is somebody's own code."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if is_own_code(trace.tb_frame.f_code.co_filename):
            place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def own_place() -> str:
    """Return ``file:line`` of the innermost frame of the stack that is somebody's own code, "" for none."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_own_code(frame.f_code.co_filename):
            return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""


CORE = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_STANDARD = str(Path(os.__file__).parent) + os.sep


def is_own_code(file: str) -> bool:
    """Whether a file is neither the core's, torch's nor the standard library's, nor a site package's."""
    return not file.startswith((CORE, _TORCH, "<")) and not (file.startswith(_STANDARD) and "site-packages" not in file)
