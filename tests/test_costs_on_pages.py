"""The pages of callbacks say how many Python calls a step that reports nothing costs; here they are counted."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil

import pytest
from tests.pages import ROOT
from tests.test_calls_per_step import _Batches, _calls_per_step, _Net

from leyden import Callback, Trainer
from leyden.callbacks import (
    DeviceStatsMonitor,
    Heartbeat,
    LearningRateMonitor,
    ModelCheckpoint,
    PrometheusExporter,
    ThroughputMonitor,
)
from leyden.loggers import CSVLogger

_NEVER = 10**6

MAKERS: dict[str, Callable[[], Callback]] = {
    "device_stats_monitor": lambda: DeviceStatsMonitor(cpu_stats=False),  # no thread, whose start is counted
    "heartbeat": lambda: Heartbeat("heartbeat.json", every_n_seconds=_NEVER),
    "learning_rate_monitor": LearningRateMonitor,
    "model_checkpoint": lambda: ModelCheckpoint("runs", every_n_train_steps=_NEVER),
    "prometheus_exporter": lambda: PrometheusExporter(port=0, device_stats=False),
    "throughput_monitor": ThroughputMonitor,
}


def calls_with(*make: Callable[[], Callback]) -> float:
    """Count the calls of a step beside these callbacks, with a logger that has nothing to do."""

    def run(batches: _Batches) -> None:
        callbacks = [one() for one in make]
        Trainer(
            accelerator="cpu", max_epochs=1, callbacks=callbacks, logger=CSVLogger("."), log_every_n_steps=_NEVER,
            enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks), discover_callbacks=False,
            enable_progress_bar=False, enable_model_summary=False,
        ).fit(_Net(), batches)  # fmt: skip

    return _calls_per_step(run)


@pytest.fixture(scope="module")
def bare() -> float:
    """Calls of a step without callbacks; the first count in a process has some 200 of its own in it."""
    calls_with()
    return calls_with()


@pytest.mark.parametrize("page", MAKERS)
def test_a_step_costs_the_calls_that_the_page_says(page: str, bare: float) -> None:
    text = (ROOT / "docs" / "callbacks" / f"{page}.md").read_text(encoding="utf-8")
    said = re.findall(r"[Aa]t most (\d+) Python calls a training step", text.replace("\n", " "))
    assert said == [str(ceil(calls_with(MAKERS[page]) - bare))]
