"""Every callback that comes with Leyden holds what `check_callback` asks of anybody's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.every_callback import MAKE, left_out

from leyden import Callback, callbacks
from leyden.callbacks import (
    BasePredictionWriter,
    EarlyStopping,
    GPUStatsMonitor,
    GradientAccumulationScheduler,
    Heartbeat,
    ModelCheckpoint,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    ThroughputMonitor,
)
from leyden.testing import check_callback

fake_nvml: Any = importlib.import_module("fake_nvml")  # of the monitoring family's tests


class Writer(BasePredictionWriter):
    def write_on_epoch_end(self, *_: Any) -> None:
        Path("predictions.txt").write_text("made")


class OnGpu(GPUStatsMonitor):
    """Takes the CPU for the card that `fake_nvml` has."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(fake_nvml.on_gpu(trainer), pl_module, stage)


WATCHES: dict[str, Any] = {"only_watches": True}
MAKES: dict[str, tuple[Callable[[], Callback], dict[str, Any]]] = {
    "BackboneFinetuning": (MAKE["BackboneFinetuning"], {}),
    "BaseFinetuning": (MAKE["BaseFinetuning"], {}),
    "BasePredictionWriter": (lambda: Writer("epoch"), WATCHES),
    "BatchSizeFinder": (MAKE["BatchSizeFinder"], {}),
    "DeviceStatsMonitor": (MAKE["DeviceStatsMonitor"], WATCHES | {"varies": ["DeviceStatsMonitor."]}),
    "EMAWeightAveraging": (MAKE["EMAWeightAveraging"], {}),
    "EarlyStopping": (lambda: EarlyStopping("val_loss", patience=3, min_delta=1e9), {}),
    "GPUStatsMonitor": (lambda: OnGpu(temperature=True, intra_step_time=True), WATCHES | {"varies": ["batch_time/"]}),
    "GradientAccumulationScheduler": (
        lambda: GradientAccumulationScheduler({0: 1, 5: 2}, interval="step"),
        {"trainer": {"accumulate_grad_batches": 1}},
    ),
    "Heartbeat": (lambda: Heartbeat("heartbeat.json"), WATCHES),
    "LambdaCallback": (MAKE["LambdaCallback"], WATCHES),
    "LearningRateFinder": (MAKE["LearningRateFinder"], {}),
    "LearningRateMonitor": (MAKE["LearningRateMonitor"], WATCHES),
    "ModelCheckpoint": (lambda: ModelCheckpoint(monitor="val_loss", save_top_k=2, save_last=True), WATCHES),
    "ModelPruning": (MAKE["ModelPruning"], {}),
    "ModelSummary": (MAKE["ModelSummary"], WATCHES),
    "OnExceptionCheckpoint": (lambda: OnExceptionCheckpoint("."), WATCHES),
    "ProgressBar": (MAKE["ProgressBar"], WATCHES),
    "ProgressBarBase": (MAKE["ProgressBarBase"], WATCHES),
    "PrometheusExporter": (MAKE["PrometheusExporter"], WATCHES),
    "QuantizationAwareTraining": (
        MAKE["QuantizationAwareTraining"],
        {"leaves": ["forward replaced"]},  # which quantises: part of what the module is from then on
    ),
    "RichModelSummary": (MAKE["RichModelSummary"], WATCHES),
    "RichProgressBar": (MAKE["RichProgressBar"], WATCHES),
    "SpikeDetection": (MAKE["SpikeDetection"], {"reports_every_n_steps": 1}),
    "StochasticWeightAveraging": (lambda: StochasticWeightAveraging(0.02, 1, annealing_epochs=2), {"varies": ["pass"]}),
    "TQDMProgressBar": (MAKE["TQDMProgressBar"], WATCHES),
    "ThroughputMonitor": (
        lambda: ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0])),
        WATCHES | {"varies": ["time", "_per_sec"]},
    ),
    "Timer": (MAKE["Timer"], WATCHES | {"varies": ["time_elapsed"]}),
    "WeightAveraging": (MAKE["WeightAveraging"], {}),
}
"""How to make one of each name of the front, and what it claims."""


def test_no_callback_is_without_an_entry() -> None:
    without = left_out(MAKES)
    assert not without, f"{', '.join(without)} are not checked by the kit: give each an entry in {Path(__file__).name}"
    for name, (make, _) in MAKES.items():
        assert isinstance(make(), getattr(callbacks, name))


@pytest.mark.parametrize("name", MAKES)
def test_holds_what_the_kit_asks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "GPUStatsMonitor":
        fake_nvml.FakeNvml(fake_nvml.Card("a")).install(monkeypatch)
    make, what = MAKES[name]
    report = check_callback(make, **what)
    assert report, str(report)
