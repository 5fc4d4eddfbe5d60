"""What a new score means for a training that should stop early: plain arithmetic, no trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, Literal, Protocol, TypeVar

from leyden.arguments import is_count, is_int, is_name, is_number, refuse
from leyden.errors import did_you_mean

__all__ = ["Criteria", "Criterion", "EarlyStoppingReason"]

T = TypeVar("T")


class EarlyStoppingReason(StrEnum):
    """Why `EarlyStopping` asked to stop, or that it did not; each is a string, too.

    Example:
        >>> EarlyStoppingReason.PATIENCE_EXHAUSTED == "patience_exhausted"
        True
    """

    NOT_STOPPED = "not_stopped"
    STOPPING_THRESHOLD = "stopping_threshold"
    DIVERGENCE_THRESHOLD = "divergence_threshold"
    PATIENCE_EXHAUSTED = "patience_exhausted"
    NON_FINITE_METRIC = "non_finite_metric"


@dataclass(frozen=True, slots=True)
class Criteria:
    """When a score is an improvement, and when it ends the training.

    Example:
        >>> criteria = Criteria("val_loss", min_delta=0.1, patience=2, mode="min")
        >>> criteria.improves(0.85, best=1.0), criteria.improves(0.95, best=1.0)
        (True, False)
        >>> criteria.reason(math.nan, best=1.0, wait_count=0)
        <EarlyStoppingReason.NON_FINITE_METRIC: 'non_finite_metric'>
    """

    monitor: str
    min_delta: float = 0.0
    patience: int = 3
    mode: Literal["min", "max"] = "min"
    check_finite: bool = True
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None

    @property
    def worst(self) -> float:
        """The score that every number improves on."""
        return math.inf if self.mode == "min" else -math.inf

    def is_better(self, score: float, other: float) -> bool:
        """Whether `score` is strictly better; NaN never is."""
        return score < other if self.mode == "min" else score > other

    def improves(self, score: float, best: float) -> bool:
        """Whether `score` is better than `best` by more than `min_delta`."""
        return self.is_better(score + self.min_delta if self.mode == "min" else score - self.min_delta, best)

    def reason(self, score: float, best: float, wait_count: int) -> EarlyStoppingReason:
        """Return why to stop, given the checks without improvement before this one, or `NOT_STOPPED`."""
        if self.check_finite and not math.isfinite(score):
            return EarlyStoppingReason.NON_FINITE_METRIC
        if self.stopping_threshold is not None and self.is_better(score, self.stopping_threshold):
            return EarlyStoppingReason.STOPPING_THRESHOLD
        if self.divergence_threshold is not None and self.is_better(self.divergence_threshold, score):
            return EarlyStoppingReason.DIVERGENCE_THRESHOLD
        if not self.improves(score, best) and wait_count + 1 >= self.patience:
            return EarlyStoppingReason.PATIENCE_EXHAUSTED
        return EarlyStoppingReason.NOT_STOPPED

    def explain(self, reason: EarlyStoppingReason, score: float, best: float, wait_count: int) -> str:
        """Return `reason` as a sentence with the numbers behind it."""
        told = f"{self.monitor} = {score:.5g}"
        if reason is EarlyStoppingReason.NON_FINITE_METRIC:
            return f"{told} is not finite; the best before was {best:.5g}"
        if reason is EarlyStoppingReason.STOPPING_THRESHOLD:
            return f"{told} is better than stopping_threshold = {self.stopping_threshold:.5g}"
        if reason is EarlyStoppingReason.DIVERGENCE_THRESHOLD:
            return f"{told} is worse than divergence_threshold = {self.divergence_threshold:.5g}"
        checks = "check" if wait_count == 1 else "checks"
        return f"{told} is the last of {wait_count} {checks} that did not improve on {best:.5g}"

    def check(
        self, owner: str, flags: Mapping[str, object], check_on_train_epoch_end: object, check_every_n_steps: object
    ) -> None:
        """Raise one error that names every argument of `owner` out of range and what was expected."""
        problems = []
        if not is_name(self.monitor):
            problems.append(f"monitor={self.monitor!r}: expected the name of a metric that is logged")
        if not is_number(self.min_delta) or not 0 <= self.min_delta < math.inf:
            problems.append(f"min_delta={self.min_delta!r}: expected a number >= 0; mode says which way is better")
        if not is_int(self.patience) or self.patience < 0:
            problems.append(f"patience={self.patience!r}: expected a number of checks (int >= 0)")
        if self.mode not in ("min", "max"):
            nearest = did_you_mean(str(self.mode), ("min", "max"))
            problems.append(f"mode={self.mode!r}: expected 'min' or 'max'.{nearest}")
        for name in ("stopping_threshold", "divergence_threshold"):
            value = getattr(self, name)
            if value is not None and (not is_number(value) or math.isnan(value)):
                problems.append(f"{name}={value!r}: expected a number or None")
        for name, value in {"check_finite": self.check_finite, **flags}.items():
            if not isinstance(value, bool):
                problems.append(f"{name}={value!r}: expected True or False")
        if not isinstance(check_on_train_epoch_end, bool | None):
            problems.append(f"check_on_train_epoch_end={check_on_train_epoch_end!r}: expected True, False or None")
        every = check_every_n_steps
        if every is not None and not is_count(every, least=1):
            problems.append(f"check_every_n_steps={every!r}: expected a number of optimizer steps (int >= 1) or None")
        elif every is not None and check_on_train_epoch_end is not None:
            problems.append(
                f"check_every_n_steps={every!r} and check_on_train_epoch_end={check_on_train_epoch_end!r} both say "
                "when to check; leave one of them out"
            )
        problems += [] if problems else self._contradictions()
        refuse(owner, problems)

    def _contradictions(self) -> list[str]:
        stopping, divergence = self.stopping_threshold, self.divergence_threshold
        if stopping is None or divergence is None or self.is_better(stopping, divergence):
            return []
        side = "below" if self.mode == "min" else "above"
        return [
            f"stopping_threshold={stopping!r} and divergence_threshold={divergence!r} with mode={self.mode!r} stop at "
            f"every score; give a stopping_threshold {side} the divergence_threshold"
        ]


class _HasCriteria(Protocol):
    _criteria: Criteria


class Criterion(Generic[T]):
    """A property that is the criterion of the same name; what is set is checked."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: _HasCriteria, owner: type) -> T:
        value: T = getattr(instance._criteria, self._name)
        return value

    def __set__(self, instance: _HasCriteria, value: T) -> None:
        changes: dict[str, Any] = {self._name: value}
        criteria = replace(instance._criteria, **changes)
        criteria.check(type(instance).__name__, {}, None, None)
        instance._criteria = criteria
