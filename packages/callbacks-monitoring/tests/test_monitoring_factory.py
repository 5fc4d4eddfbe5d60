"""What attaches itself where the family is installed, each only where it has a use."""

from __future__ import annotations

from typing import Any

import pytest

from leyden import Callback, Trainer
from leyden_monitoring import LearningRateMonitor, ModelSummary


@pytest.fixture(autouse=True)
def _discovery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_CALLBACKS", "only:monitoring")


def attached(**settings: Any) -> set[str]:
    usual: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1}
    trainer = Trainer(**(usual | settings))
    assert trainer.discovered.broken == []
    return {type(p.callback).__name__ for p in trainer.discovered.placed}


def test_everything_with_a_use_is_attached() -> None:
    assert attached() == {"TQDMProgressBar", "ModelSummary", "LearningRateMonitor", "ThroughputMonitor"}
    assert attached(logger=False) == {"TQDMProgressBar", "ModelSummary"}
    assert attached(barebones=True, logger=None) == set()


def test_switches_keep_their_meaning() -> None:
    assert attached(logger=False, enable_progress_bar=False) == {"ModelSummary"}
    assert attached(logger=False, enable_model_summary=False) == {"TQDMProgressBar"}


def test_the_users_own_take_their_places() -> None:
    class Bar(Callback):
        role = "progress_bar"

    own = [Bar(), ModelSummary(max_depth=-1), LearningRateMonitor("epoch")]
    assert attached(callbacks=own) == {"ThroughputMonitor"}
