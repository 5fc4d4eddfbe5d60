"""EarlyStopping: ends a training whose metric no longer improves."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.rank_zero import rank_zero_info, rank_zero_warn
from leyden_optim.verdict import Criteria, Criterion, EarlyStoppingReason

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["EarlyStopping", "EarlyStoppingReason"]


class EarlyStopping(Callback):
    """Stops when `monitor` has not improved by more than `min_delta` for `patience` checks, or is beyond a threshold.

    The arguments that decide, such as `patience`, can be set later: they are checked as here, and hold from the next
    check on.

    Args:
        monitor: name of the metric, as it was given to `self.log`. Of one that is logged in several dataloaders the
            name tells which: ``val_loss/dataloader_idx_1``.
        min_delta: a score is an improvement when it is better than `best_score` by more than this, in the unit of the
            metric; at least 0.
        patience: checks in a row without improvement after which it stops; 0 is as 1.
        verbose: log a line about each check.
        mode: ``"min"`` for a metric that is to fall, ``"max"`` for one that is to rise.
        strict: a metric that is missing is an error; else there is a warning, once, and no check.
        check_finite: stop when the score is NaN or infinite.
        stopping_threshold: stop at once when the score is better than this; None never does.
        divergence_threshold: stop at once when the score is worse than this; None never does.
        check_on_train_epoch_end: True checks at the end of the training epoch, False after validation. None chooses:
            the end of the epoch where a validation ends each epoch or there is none, else after each validation.
        log_rank_zero_only: with `verbose`, only the first process reports, without its rank.
        check_every_n_steps: check whenever `global_step` reaches a multiple of this, and nowhere else; at least 1.

    Attributes:
        best_score: the last score that was an improvement, 0-d; infinite before the first check.
        wait_count: checks since then.
        stopped_epoch: the epoch in which it asked to stop, counted from 0; 0 where it did not, too.
        stopping_reason: why it asked to stop, an `EarlyStoppingReason`.
        stopping_reason_message: the same as a sentence with numbers; None where it did not ask.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; at the first check when `monitor` is
            missing, with the metrics there are.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> stopping = EarlyStopping("train_loss", patience=1, min_delta=1e6)
        >>> trainer = Trainer(max_epochs=9, logger=False, callbacks=[stopping], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> stopping.stopped_epoch, str(stopping.stopping_reason)
        (1, 'patience_exhausted')
    """

    monitor = Criterion[str]()
    min_delta = Criterion[float]()
    patience = Criterion[int]()
    mode = Criterion[Literal["min", "max"]]()
    check_finite = Criterion[bool]()
    stopping_threshold = Criterion["float | None"]()
    divergence_threshold = Criterion["float | None"]()

    position = "monitor"
    role: ClassVar[str | None] = "early_stopping"

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: Literal["min", "max"] = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
        check_every_n_steps: int | None = None,
    ) -> None:
        super().__init__()
        flags = {"verbose": verbose, "strict": strict, "log_rank_zero_only": log_rank_zero_only}
        self._criteria = Criteria(
            monitor, min_delta, patience, mode, check_finite, stopping_threshold, divergence_threshold
        )
        self._criteria.check(type(self).__name__, flags, check_on_train_epoch_end, check_every_n_steps)
        self.verbose = verbose
        self.strict = strict
        self.check_on_train_epoch_end = check_on_train_epoch_end
        self.check_every_n_steps = check_every_n_steps
        self.log_rank_zero_only = log_rank_zero_only
        self._warned = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.best_score = torch.tensor(self._criteria.worst)
        self.wait_count = 0
        self.stopped_epoch = 0
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None
        self._asked_first = False  # nobody else had asked to stop when this one did
        self._asked_by: dict[str, Any] | None = None  # the criteria of the run that is resumed, where it had asked
        self._checked_at: int | None = None  # global step of the newest score that was looked at
        self._checked_score = math.nan
        self._checked_to: int | None = None  # with `check_every_n_steps`, the step that the last check was made at
        self._has_validated = False

    @property
    def state_key(self) -> str:
        """Tells several of these apart by what they watch."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        return {
            **asdict(self._criteria),
            "strict": self.strict,
            "check_on_train_epoch_end": self.check_on_train_epoch_end,
            "check_every_n_steps": self.check_every_n_steps,
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit starts afresh; one that resumes gets its state after this."""
        if stage == "fit":
            self._start_afresh()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask again where the run that is resumed had asked, by the same criteria."""
        if self.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
            return
        if self._asked_by != asdict(self._criteria):
            self._take_back()
            return
        trainer.should_stop = True
        rank_zero_info(
            f"The run that is resumed was stopped by {type(self).__name__}(monitor={self.monitor!r}): "
            f"{self.stopping_reason_message}. To train on, change what decided, for example patience={self.patience}."
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on checking by step in an epoch that was begun before."""
        if self._checked_to is None:
            self._checked_to = trainer.fit_loop.steps_met
        if trainer.fit_loop.epoch_started:
            self._await_step(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check by step in this epoch."""
        self._await_step(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check here where this is the place for it."""
        if self._is_due(trainer, at_epoch_end=True):
            self._run_early_stopping_check(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check here where this is the place for it, in validations that belong to a fit."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._has_validated = True
            if self._is_due(trainer, at_epoch_end=False):
                self._run_early_stopping_check(trainer)

    def _await_step(self, trainer: Trainer) -> None:
        """No hook of every batch: the loop calls when the step may have been taken."""
        if self.check_every_n_steps is not None:
            look = trainer.guarded(self, "check", lambda done: self._look_in(trainer))
            trainer.fit_loop.call_at_step(self._next_step(self.check_every_n_steps), look)

    def _look_in(self, trainer: Trainer) -> None:
        if not trainer.fit_loop.validation_is_due and self._is_due(trainer, at_epoch_end=False):
            self._run_early_stopping_check(trainer)
        self._await_step(trainer)

    def _next_step(self, every_n_steps: int) -> int:
        assert self._checked_to is not None
        return (self._checked_to // every_n_steps + 1) * every_n_steps

    def _is_due(self, trainer: Trainer, *, at_epoch_end: bool) -> bool:
        if self.check_every_n_steps is None:
            return self._checks_at_epoch_end(trainer) is at_epoch_end
        if trainer.global_step < self._next_step(self.check_every_n_steps):
            return False
        self._checked_to = trainer.global_step
        return True

    def _checks_at_epoch_end(self, trainer: Trainer) -> bool:
        if self.check_on_train_epoch_end is not None:
            return self.check_on_train_epoch_end
        if not sum(trainer.num_val_batches):
            return True
        schedule = trainer.fit_loop.schedule
        return schedule.every_n_batches == math.inf and schedule.every_n_epochs == 1

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        """Look at the score. The name is that which subclasses call in hooks of their own."""
        if trainer.fast_dev_run:
            return
        score, logged_at = trainer.strategy.broadcast(self._look(trainer))
        if logged_at is None:
            self._complain(trainer)
        elif not self._was_seen(trainer, score, logged_at):
            self._checked_at, self._checked_score = logged_at, score
            self._judge(trainer, score)

    def _was_seen(self, trainer: Trainer, score: float, logged_at: int) -> bool:
        """Whether training went on since `score` was looked at, and it was not measured again.

        Several batches of an accumulation window measure at one step; the number tells them apart.
        """
        is_same = score == self._checked_score or (math.isnan(score) and math.isnan(self._checked_score))
        return logged_at == self._checked_at and trainer.global_step > logged_at and is_same

    def _look(self, trainer: Trainer) -> tuple[float, int | None]:
        """Return the score and the step it was logged at, None where there is none."""
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            return 0.0, None
        return float(metrics[self.monitor]), metrics.step_of(self.monitor)

    def _judge(self, trainer: Trainer, score: float) -> None:
        best = float(self.best_score)
        reason = self._criteria.reason(score, best, self.wait_count)
        if self._criteria.improves(score, best) and reason is not EarlyStoppingReason.NON_FINITE_METRIC:
            self.best_score = torch.tensor(score)
            self.wait_count = 0
            message = f"{self.monitor} improved to {score:.5g}"
            if best != self._criteria.worst:
                message += f" from {best:.5g}"
        else:
            self.wait_count += 1
            message = f"{self.monitor} = {score:.5g} did not improve on {best:.5g} ({self.wait_count}/{self.patience})"
        if reason is not EarlyStoppingReason.NOT_STOPPED:
            message = self._criteria.explain(reason, score, best, self.wait_count)
            self._ask_to_stop(trainer, reason, message)
        elif self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
            self._withdraw(trainer)
        if self.verbose:
            self._report(trainer, message)

    def _ask_to_stop(self, trainer: Trainer, reason: EarlyStoppingReason, message: str) -> None:
        self.stopped_epoch = trainer.current_epoch
        self.stopping_reason, self.stopping_reason_message = reason, message
        nobody_had = trainer.strategy.reduce_boolean_decision(not trainer.should_stop, all=True)
        self._asked_first = self._asked_first or nobody_had
        trainer.should_stop = True

    def _withdraw(self, trainer: Trainer) -> None:
        """Training went on, since a minimum of epochs or steps was not reached, and now there is no reason to stop."""
        self._take_back()
        others = (callback for callback in trainer.early_stopping_callbacks if isinstance(callback, EarlyStopping))
        if self._asked_first and all(other.stopping_reason is EarlyStoppingReason.NOT_STOPPED for other in others):
            trainer.should_stop = False
        self._asked_first = False

    def _take_back(self) -> None:
        self.stopped_epoch = 0
        self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None

    def _complain(self, trainer: Trainer) -> None:
        by_step = self.check_every_n_steps is not None
        if by_step and not self._has_validated and any(trainer.num_val_batches):
            return  # it may be a metric of the validation that is still to come
        names = sorted(trainer.callback_metrics)
        if by_step:
            otherwise = (
                "check when it is: without check_every_n_steps, which sees no metric that is logged for epochs alone "
                "before they end"
            )
        elif any(trainer.num_val_batches):
            otherwise = f"check when it is: check_on_train_epoch_end={not self._checks_at_epoch_end(trainer)}"
        else:
            otherwise = "validate, which this fit does not"
        message = (
            f"{type(self).__name__}(monitor={self.monitor!r}): no {self.monitor!r} was logged. There are: "
            f"{', '.join(names) or 'no metrics at all'}.{did_you_mean(self.monitor, names)} Log it with "
            f"self.log({self.monitor!r}, ...), monitor one that is there, or {otherwise}."
        )
        if self.strict:
            raise MisconfigurationException(message)
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"{message} With strict=False training goes on without it.")

    def _report(self, trainer: Trainer, message: str) -> None:
        if self.log_rank_zero_only or trainer.world_size == 1:
            rank_zero_info(message)
        else:
            logging.getLogger("leyden").info("[rank %d] %s", trainer.global_rank, message)

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, how long it has not improved, and by which criteria it asked to stop, if it did."""
        asked = self.stopping_reason is not EarlyStoppingReason.NOT_STOPPED
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "best_score": self.best_score,
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "stopping_reason": str(self.stopping_reason),
            "stopping_reason_message": self.stopping_reason_message,
            "checked_at": self._checked_at,
            "checked_score": self._checked_score,
            "checked_to": self._checked_to,
            "has_validated": self._has_validated,
            "asked_first": self._asked_first,
            "asked_by": asdict(self._criteria) if asked else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on waiting where the checkpoint's run left off; scores by another metric or mode say nothing here."""
        monitor, mode = state_dict.get("monitor", self.monitor), state_dict.get("mode", self.mode)
        if (monitor, mode) != (self.monitor, self.mode):
            rank_zero_warn(
                f"{type(self).__name__}(monitor={self.monitor!r}, mode={self.mode!r}) starts afresh: the best score of "
                f"the checkpoint was by monitor={monitor!r}, mode={mode!r}."
            )
            return
        self.best_score = torch.as_tensor(state_dict["best_score"])
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.stopping_reason = EarlyStoppingReason(state_dict.get("stopping_reason", "not_stopped"))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")
        self._checked_at = state_dict.get("checked_at")
        self._checked_score = state_dict.get("checked_score", math.nan)
        self._checked_to = state_dict.get("checked_to")
        self._has_validated = state_dict.get("has_validated", False)
        self._asked_first = state_dict.get("asked_first", False)
        self._asked_by = state_dict.get("asked_by")
