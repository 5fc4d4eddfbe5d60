"""What a score means: improvement, thresholds, patience."""

from __future__ import annotations

import math

import pytest

from leyden_optim.verdict import Criteria, EarlyStoppingReason

Reason = EarlyStoppingReason


@pytest.mark.parametrize(
    ("mode", "min_delta", "score", "best", "improves"),
    [
        ("min", 0.0, 0.9, 1.0, True),
        ("min", 0.0, 1.0, 1.0, False),
        ("min", 0.25, 0.75, 1.0, False),
        ("min", 0.25, 0.5, 1.0, True),
        ("max", 0.0, 1.1, 1.0, True),
        ("max", 0.25, 1.25, 1.0, False),
        ("max", 0.25, 1.5, 1.0, True),
        ("min", 0.0, math.nan, math.inf, False),
        ("max", 0.0, -1e30, -math.inf, True),
    ],
)
def test_an_improvement_is_better_by_more_than_min_delta(
    mode: str, min_delta: float, score: float, best: float, improves: bool
) -> None:
    criteria = Criteria("x", min_delta, mode=mode)  # type: ignore[arg-type]
    assert criteria.improves(score, best) is improves


@pytest.mark.parametrize(
    ("score", "wait_count", "reason"),
    [
        (math.nan, 0, Reason.NON_FINITE_METRIC),
        (math.inf, 0, Reason.NON_FINITE_METRIC),
        (0.05, 0, Reason.STOPPING_THRESHOLD),
        (0.1, 0, Reason.NOT_STOPPED),
        (10.5, 0, Reason.DIVERGENCE_THRESHOLD),
        (2.0, 0, Reason.NOT_STOPPED),
        (2.0, 1, Reason.PATIENCE_EXHAUSTED),
        (0.5, 1, Reason.NOT_STOPPED),
    ],
)
def test_the_reason_to_stop(score: float, wait_count: int, reason: EarlyStoppingReason) -> None:
    criteria = Criteria("x", patience=2, stopping_threshold=0.1, divergence_threshold=10.0)
    assert criteria.reason(score, best=1.0, wait_count=wait_count) is reason


def test_what_is_not_finite_may_be_let_through() -> None:
    criteria = Criteria("x", patience=2, check_finite=False)
    assert criteria.reason(math.nan, best=1.0, wait_count=0) is Reason.NOT_STOPPED
    assert criteria.reason(math.nan, best=1.0, wait_count=1) is Reason.PATIENCE_EXHAUSTED


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (Reason.NON_FINITE_METRIC, "x = 2 is not finite; the best before was 1"),
        (Reason.STOPPING_THRESHOLD, "x = 2 is better than stopping_threshold = 0.1"),
        (Reason.DIVERGENCE_THRESHOLD, "x = 2 is worse than divergence_threshold = 10"),
        (Reason.PATIENCE_EXHAUSTED, "x = 2 is the last of 3 checks that did not improve on 1"),
    ],
)
def test_the_reason_in_words(reason: EarlyStoppingReason, told: str) -> None:
    criteria = Criteria("x", stopping_threshold=0.1, divergence_threshold=10.0)
    assert criteria.explain(reason, 2.0, 1.0, 3) == told
