"""Every callback that comes with Leyden holds what `check_callback` asks of anybody's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leyden import Callback, callbacks
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
from leyden.testing import check_callback

fake_nvml: Any = importlib.import_module("fake_nvml")  # of the monitoring family's tests


class Thaw(BaseFinetuning):
    """Sets the backbone free layer by layer."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if 0 < epoch <= 2:
            self.unfreeze_and_add_param_group(pl_module.backbone[epoch - 1], optimizer)


class Writer(BasePredictionWriter):
    def write_on_epoch_end(self, *_: Any) -> None:
        Path("predictions.txt").write_text("made")


class Counting(ProgressBarBase):
    """A bar of the user's own."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
        return {**super().get_metrics(trainer, pl_module), "batch": self.train_batch_idx}


class OnGpu(GPUStatsMonitor):
    """Takes the CPU for the card that `fake_nvml` has."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(fake_nvml.on_gpu(trainer), pl_module, stage)


def log_twice(trainer: Any, module: Any, *_: Any) -> None:
    module.log("twice", 2.0)


WATCHES: dict[str, Any] = {"only_watches": True}
MAKES: dict[str, tuple[Callable[[], Callback], dict[str, Any]]] = {
    "BackboneFinetuning": (lambda: BackboneFinetuning(1, lambda epoch: 1.5), {}),
    "BaseFinetuning": (Thaw, {}),
    "BasePredictionWriter": (lambda: Writer("epoch"), WATCHES),
    "BatchSizeFinder": (lambda: BatchSizeFinder(max_val=4), {}),
    "DeviceStatsMonitor": (lambda: DeviceStatsMonitor(cpu_stats=True), WATCHES | {"varies": ["DeviceStatsMonitor."]}),
    "EMAWeightAveraging": (lambda: EMAWeightAveraging(decay=0.7, update_starting_at_step=3), {}),
    "EarlyStopping": (lambda: EarlyStopping("val_loss", patience=3, min_delta=1e9), {}),
    "GPUStatsMonitor": (lambda: OnGpu(temperature=True, intra_step_time=True), WATCHES | {"varies": ["batch_time/"]}),
    "GradientAccumulationScheduler": (
        lambda: GradientAccumulationScheduler({0: 1, 5: 2}, interval="step"),
        {"trainer": {"accumulate_grad_batches": 1}},
    ),
    "Heartbeat": (lambda: Heartbeat("heartbeat.json"), WATCHES),
    "LambdaCallback": (lambda: LambdaCallback(on_train_batch_end=log_twice), WATCHES),
    "LearningRateFinder": (lambda: LearningRateFinder(min_lr=1e-4, num_training_steps=20), {}),
    "LearningRateMonitor": (lambda: LearningRateMonitor(log_momentum=True), WATCHES),
    "ModelCheckpoint": (lambda: ModelCheckpoint(monitor="val_loss", save_top_k=2, save_last=True), WATCHES),
    "ModelPruning": (lambda: ModelPruning("random_unstructured", amount=0.2), {}),
    "ModelSummary": (ModelSummary, WATCHES),
    "OnExceptionCheckpoint": (lambda: OnExceptionCheckpoint("."), WATCHES),
    "ProgressBar": (lambda: ProgressBar(refresh_rate=2), WATCHES),
    "ProgressBarBase": (Counting, WATCHES),
    "PrometheusExporter": (lambda: PrometheusExporter(port=0), WATCHES),
    "QuantizationAwareTraining": (
        lambda: QuantizationAwareTraining(modules_to_fuse=[["backbone.0", "backbone.1"]]),
        {"leaves": ["forward replaced"]},  # which quantises: part of what the module is from then on
    ),
    "RichModelSummary": (RichModelSummary, WATCHES),
    "RichProgressBar": (lambda: RichProgressBar(leave=True), WATCHES),
    "SpikeDetection": (lambda: SpikeDetection(window=4, rtol=99.0), {"reports_every_n_steps": 1}),
    "StochasticWeightAveraging": (lambda: StochasticWeightAveraging(0.02, 1, annealing_epochs=2), {"varies": ["pass"]}),
    "TQDMProgressBar": (TQDMProgressBar, WATCHES),
    "ThroughputMonitor": (
        lambda: ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0])),
        WATCHES | {"varies": ["time", "_per_sec"]},
    ),
    "Timer": (lambda: Timer("00:01:00:00"), WATCHES | {"varies": ["time_elapsed"]}),
    "WeightAveraging": (lambda: WeightAveraging(use_buffers=False), {}),
}
"""How to make one of each name of the front, and what it claims."""


def test_no_callback_is_without_an_entry() -> None:
    bases = {"Callback", "Checkpoint"}  # which do nothing
    without = sorted({*callbacks.__all__} - {*MAKES} - bases)
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
