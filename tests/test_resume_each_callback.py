"""Every callback that comes with Leyden alone in a run: cut and gone on with, bit for bit the run that nobody cuts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.cut_runs import DATA, Net, Setting, ends
from tests.every_callback import MAKE, left_out
from torch.utils.data import DataLoader

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

fake_nvml: Any = importlib.import_module("fake_nvml")  # of the monitoring family's tests

Differences = Callable[[Any, Any], Iterable[str]]


class Writer(BasePredictionWriter):
    def write_on_epoch_end(self, *_: Any) -> None:
        raise AssertionError("nothing is predicted here")


class Slow(Net):
    lr = 1e-9


class Long(Net):
    """With the batches that are found an epoch has as many as that of others."""

    def train_dataloader(self) -> Any:
        return DataLoader(DATA.repeat(2, 1), batch_size=self.batch_size, shuffle=True)  # type: ignore[arg-type]


def one(name: str) -> Callable[[Path], list[Callback]]:
    return lambda folder: [MAKE[name]()]


CASES: dict[str, Setting] = {
    "BackboneFinetuning": Setting(one("BackboneFinetuning")),
    "BaseFinetuning": Setting(one("BaseFinetuning")),
    "BasePredictionWriter": Setting(lambda folder: [Writer("epoch")]),
    "BatchSizeFinder": Setting(one("BatchSizeFinder"), net=Long),
    "DeviceStatsMonitor": Setting(one("DeviceStatsMonitor"), varies=("DeviceStatsMonitor.",)),
    "EMAWeightAveraging": Setting(one("EMAWeightAveraging")),
    "EarlyStopping": Setting(lambda folder: [EarlyStopping("val", patience=6, min_delta=1e9)], {"max_epochs": 9}),
    "GPUStatsMonitor": Setting(
        lambda folder: [GPUStatsMonitor(temperature=True, intra_step_time=True)],
        prepare=fake_nvml.on_gpu,
        varies=("batch_time/",),
    ),
    "GradientAccumulationScheduler": Setting(
        lambda folder: [GradientAccumulationScheduler({0: 1, 9: 2}, interval="step")]
    ),
    "Heartbeat": Setting(lambda folder: [Heartbeat(folder / "heartbeat.json", every_n_seconds=1e-9)]),
    "LambdaCallback": Setting(one("LambdaCallback")),
    "LearningRateFinder": Setting(one("LearningRateFinder"), net=Slow),
    "LearningRateMonitor": Setting(one("LearningRateMonitor")),
    "ModelCheckpoint": Setting(
        lambda folder: [ModelCheckpoint(folder / "best", monitor="val", save_top_k=2, save_last=True)]
    ),
    "ModelPruning": Setting(one("ModelPruning")),
    "ModelSummary": Setting(one("ModelSummary")),
    "OnExceptionCheckpoint": Setting(lambda folder: [OnExceptionCheckpoint(folder, "another")]),
    "ProgressBar": Setting(one("ProgressBar")),
    "ProgressBarBase": Setting(one("ProgressBarBase")),
    "PrometheusExporter": Setting(one("PrometheusExporter")),
    "QuantizationAwareTraining": Setting(one("QuantizationAwareTraining")),
    "RichModelSummary": Setting(one("RichModelSummary")),
    "RichProgressBar": Setting(one("RichProgressBar")),
    "SpikeDetection": Setting(one("SpikeDetection")),
    "StochasticWeightAveraging": Setting(lambda folder: [StochasticWeightAveraging(0.02, 2, annealing_epochs=2)]),
    "TQDMProgressBar": Setting(one("TQDMProgressBar")),
    "ThroughputMonitor": Setting(
        lambda folder: [ThroughputMonitor(batch_size_fn=len)], varies=("/time", "_per_sec", "time")
    ),
    "Timer": Setting(one("Timer"), varies=("time_elapsed",)),
    "WeightAveraging": Setting(one("WeightAveraging")),
}


def test_no_callback_is_without_a_case() -> None:
    """A new one gets a case above, with arguments that make the cut the middle of its work."""
    without = left_out(CASES)
    assert not without, f"{', '.join(without)} have no resume test: give each a case in {Path(__file__).name}"
    for name, case in CASES.items():
        [made] = case.callbacks(Path("folder"))
        assert isinstance(made, getattr(callbacks, name))


@pytest.mark.parametrize("name", CASES)
def test_alone(name: str, tmp_path: Path, named_differences: Differences, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "GPUStatsMonitor":
        fake_nvml.FakeNvml(fake_nvml.Card("a")).install(monkeypatch)
    runs = ends(tmp_path, CASES[name])
    _, _, _, whole = next(runs)
    for how, _, _, resumed in runs:
        assert not list(named_differences(resumed, whole)), how
