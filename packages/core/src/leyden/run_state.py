"""Where a trainer is: which entry point, in which stage, with which outcome."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["RunningStage", "TrainerFn", "TrainerState", "TrainerStatus"]


class TrainerFn(StrEnum):
    """The entry point that was called."""

    FITTING = "fit"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"


class RunningStage(StrEnum):
    """What is going on right now; within `fit` it changes between training, sanity checking and validating."""

    TRAINING = "train"
    SANITY_CHECKING = "sanity_check"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"


class TrainerStatus(StrEnum):
    """How far the entry point got."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"


@dataclass(slots=True)
class TrainerState:
    """Entry point, stage and status of a trainer.

    Example:
        >>> TrainerState().finished
        False
    """

    fn: TrainerFn | None = None
    stage: RunningStage | None = None
    status: TrainerStatus = TrainerStatus.INITIALIZING

    @property
    def finished(self) -> bool:
        """Whether the last entry point returned."""
        return self.status is TrainerStatus.FINISHED

    @property
    def stopped(self) -> bool:
        """Whether the last entry point ended, one way or the other."""
        return self.status in (TrainerStatus.FINISHED, TrainerStatus.INTERRUPTED)
