"""Every callback that comes with Leyden alone in a run: cut and gone on with, bit for bit the run that nobody cuts."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.cut_runs import DATA, Net, Setting, ends
from torch.utils.data import DataLoader

from leyden import Trainer, callbacks
from leyden.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    BasePredictionWriter,
    BatchSizeFinder,
    DeviceStatsMonitor,
    EarlyStopping,
    EMAWeightAveraging,
    GPUStatsMonitor,
    GradientAccumulationScheduler,
    Heartbeat,
    LambdaCallback,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    OnExceptionCheckpoint,
    ProgressBar,
    ProgressBarBase,
    PrometheusExporter,
    QuantizationAwareTraining,
    RichModelSummary,
    RichProgressBar,
    SpikeDetection,
    StochasticWeightAveraging,
    ThroughputMonitor,
    Timer,
    TQDMProgressBar,
    WeightAveraging,
)

fake_nvml: Any = importlib.import_module("fake_nvml")  # of the monitoring family's tests

Differences = Callable[[Any, Any], Iterable[str]]


class Thaw(BaseFinetuning):
    """Sets the backbone free layer by layer."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if 0 < epoch <= len(pl_module.backbone):
            self.unfreeze_and_add_param_group(pl_module.backbone[epoch - 1], optimizer)


class Writer(BasePredictionWriter):
    def write_on_epoch_end(self, *_: Any) -> None:
        raise AssertionError("nothing is predicted here")


class Counting(ProgressBarBase):
    """A bar of the user's own."""

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> Any:
        return {**super().get_metrics(trainer, pl_module), "batch": self.train_batch_idx}


class Slow(Net):
    lr = 1e-9


class Long(Net):
    """With the batches that are found an epoch has as many as that of others."""

    def train_dataloader(self) -> Any:
        return DataLoader(DATA.repeat(2, 1), batch_size=self.batch_size, shuffle=True)  # type: ignore[arg-type]


CASES: dict[str, Setting] = {
    "BackboneFinetuning": Setting(lambda folder: [BackboneFinetuning(1, lambda epoch: 1.5)]),
    "BaseFinetuning": Setting(lambda folder: [Thaw()]),
    "BasePredictionWriter": Setting(lambda folder: [Writer("epoch")]),
    "BatchSizeFinder": Setting(lambda folder: [BatchSizeFinder(max_val=4)], net=Long),
    "DeviceStatsMonitor": Setting(lambda folder: [DeviceStatsMonitor(cpu_stats=True)], varies=("DeviceStatsMonitor.",)),
    "EMAWeightAveraging": Setting(lambda folder: [EMAWeightAveraging(decay=0.7, update_starting_at_step=3)]),
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
    "LambdaCallback": Setting(
        lambda folder: [LambdaCallback(on_train_batch_end=lambda trainer, module, *_: module.log("twice", 2.0))]
    ),
    "LearningRateFinder": Setting(lambda folder: [LearningRateFinder(min_lr=1e-4, num_training_steps=20)], net=Slow),
    "LearningRateMonitor": Setting(lambda folder: [LearningRateMonitor(log_momentum=True)]),
    "ModelCheckpoint": Setting(
        lambda folder: [ModelCheckpoint(folder / "best", monitor="val", save_top_k=2, save_last=True)]
    ),
    "ModelPruning": Setting(lambda folder: [ModelPruning("random_unstructured", amount=0.2)]),
    "ModelSummary": Setting(lambda folder: [ModelSummary()]),
    "OnExceptionCheckpoint": Setting(lambda folder: [OnExceptionCheckpoint(folder, "another")]),
    "ProgressBar": Setting(lambda folder: [ProgressBar(refresh_rate=2)]),
    "ProgressBarBase": Setting(lambda folder: [Counting()]),
    "PrometheusExporter": Setting(lambda folder: [PrometheusExporter(port=0)]),
    "QuantizationAwareTraining": Setting(
        lambda folder: [QuantizationAwareTraining(modules_to_fuse=[["backbone.0", "backbone.1"]])]
    ),
    "RichModelSummary": Setting(lambda folder: [RichModelSummary()]),
    "RichProgressBar": Setting(lambda folder: [RichProgressBar(leave=True)]),
    "SpikeDetection": Setting(lambda folder: [SpikeDetection(window=4, rtol=99.0)]),
    "StochasticWeightAveraging": Setting(lambda folder: [StochasticWeightAveraging(0.02, 2, annealing_epochs=2)]),
    "TQDMProgressBar": Setting(lambda folder: [TQDMProgressBar()]),
    "ThroughputMonitor": Setting(
        lambda folder: [ThroughputMonitor(batch_size_fn=len)], varies=("/time", "_per_sec", "time")
    ),
    "Timer": Setting(lambda folder: [Timer("00:01:00:00")], varies=("time_elapsed",)),
    "WeightAveraging": Setting(lambda folder: [WeightAveraging(use_buffers=False)]),
}


def test_no_callback_is_without_a_case() -> None:
    """A new one gets a case above, with arguments that make the cut the middle of its work."""
    bases = {"Callback", "Checkpoint"}  # which do nothing
    without = sorted({*callbacks.__all__} - {*CASES} - bases)
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
