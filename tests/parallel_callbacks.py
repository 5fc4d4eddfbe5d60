"""Every callback and logger that comes with Leyden in runs of several processes, for `test_parallel_callbacks`."""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import json
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parallel_runs import ACCELERATOR, PROCESSES
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from leyden import LightningModule, Trainer
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
from leyden.loggers import CSVLogger, Logger
from leyden_monitoring import TensorBoardLogger
from leyden_optim.spike_detection import TrainingSpikeException

__all__ = ["CASES", "Case", "alone", "outcomes"]

fake_nvml: Any = importlib.import_module("fake_nvml")  # of the monitoring family's tests

ROWS = 24
WORLD_BATCH = 4
EPOCHS = 3


class Net(LightningModule):
    """A backbone and a head, a scheduler, validation on the rows it is trained on, prediction of others."""

    lr = 0.05

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh())
        self.head = nn.Linear(6, 1)
        self.batch_size = batch_size

    def forward(self, batch: Tensor) -> Tensor:
        found: Tensor = self.head(self.backbone(batch))
        return found

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = (self(batch) - 1).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", (self(batch) - 1).square().mean(), prog_bar=True, sync_dist=True)
        self.log("own", float(self.trainer.global_rank))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD([one for one in self.parameters() if one.requires_grad], self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loader(self) -> DataLoader[Any]:
        rows: Any = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(rows, batch_size=self.batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def predict_dataloader(self) -> DataLoader[Any]:
        rows: Any = torch.arange(4.0 * 11).view(11, 4)  # the last batches of two processes are uneven
        return DataLoader(rows, batch_size=self.batch_size)


@dataclass
class Case:
    """A run with a callback or logger.

    Attributes:
        make: makes it, of the folder of the run.
        arguments: of the Trainer.
        net: what is trained.
        predicts: whether the run predicts, too.
        refused: what a strategy is told that shards weights.
        is_alone: whether one process with the doubled batch comes to the same weights.
        seen: reads off what the claims are about.
        prepare: called with the trainer before it fits.
    """

    make: Callable[[Path], Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    net: type[Net] = Net
    predicts: bool = False
    refused: str = ""
    is_alone: bool = True
    seen: Callable[[Any, Trainer], Any] = lambda part, trainer: None
    prepare: Callable[[Trainer, pytest.MonkeyPatch], Any] = lambda trainer, monkeypatch: None


class Thaw(BaseFinetuning):
    """Sets the backbone free in the second epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, train_bn=False)


class Writer(BasePredictionWriter):
    """Keeps which rows it was given, and what was predicted of them."""

    def __init__(self) -> None:
        super().__init__("batch_and_epoch")
        self.batches: dict[int, float] = {}
        self.epoch: dict[int, float] = {}

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Any, batch: Any, *_: Any
    ) -> None:
        assert [int(row[0]) // 4 for row in batch] == list(batch_indices)
        self.batches.update(zip(batch_indices, prediction.flatten().tolist(), strict=True))

    def write_on_epoch_end(self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any) -> None:
        for indices, prediction in zip(batch_indices[0], predictions, strict=True):
            self.epoch.update(zip(indices, prediction.flatten().tolist(), strict=True))


class Counting(ProgressBarBase):
    """A bar of the user's own."""

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        if self.is_enabled:
            print("batch", self.train_batch_idx)


class Ticking(Timer):
    """Its time goes by in its first process alone, by a second in each batch."""

    now = 0.0

    def clock(self) -> float:  # type: ignore[override]
        return self.now

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.now += trainer.is_global_zero
        super().on_train_batch_end(trainer, *args)


class Spiking(Net):
    """A loss that spikes in one process."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        last = self.trainer.global_rank == self.trainer.world_size - 1
        return loss * 1000 if last and self.trainer.global_step == 4 else loss


class Narrow(Net):
    """A device without room for batches of more than three rows, in the last process."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.trainer.global_rank == PROCESSES - 1 and len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().training_step(batch, batch_idx)


class Shown(Net):
    """With an input that sizes and the graph are found by."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.example_input_array = torch.ones(2, 4)


class Steep(Net):
    lr = 1e-9


def _on_gpus(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the machine two cards."""
    cards = fake_nvml.Card("a", celsius=50), fake_nvml.Card("b", celsius=60)
    fake_nvml.FakeNvml(*cards).install(monkeypatch)
    fake_nvml.on_gpu(trainer).device_ids = [0, 1]


def _rows_of(folder: Path) -> list[dict[str, str]]:
    found = [*folder.rglob("metrics.csv")]
    return [row for path in found for row in csv.DictReader(io.StringIO(path.read_text()))]


def _name(path: Path) -> str:
    """Return a path without what tells of the time and the process."""
    return str(path.parent / "events") if path.name.startswith("events.out.tfevents.") else str(path)


CASES: dict[str, Case] = {
    "BackboneFinetuning": Case(lambda folder: BackboneFinetuning(1, lambda epoch: 1.5, train_bn=False)),
    "BaseFinetuning": Case(lambda folder: Thaw()),
    "BasePredictionWriter": Case(
        lambda folder: Writer(), {"max_epochs": 1}, predicts=True, seen=lambda one, trainer: (one.batches, one.epoch)
    ),
    "BatchSizeFinder": Case(
        lambda folder: BatchSizeFinder(),
        net=Narrow,
        refused="a process that runs out of memory within a step leaves the others waiting",
        is_alone=False,
        seen=lambda one, trainer: (one.optimal_batch_size, trainer.lightning_module.batch_size),
    ),
    "CSVLogger": Case(
        lambda folder: CSVLogger(folder), {"log_every_n_steps": 1}, seen=lambda one, trainer: (one.log_dir, one.version)
    ),
    "DeviceStatsMonitor": Case(lambda folder: DeviceStatsMonitor(cpu_stats=True), {"log_every_n_steps": 1}),
    "EMAWeightAveraging": Case(lambda folder: EMAWeightAveraging(decay=0.7, update_starting_at_step=3)),
    "EarlyStopping": Case(
        lambda folder: EarlyStopping("own", patience=2, mode="min"),
        {"max_epochs": 9},
        seen=lambda one, trainer: (one.stopped_epoch, float(one.best_score), one.wait_count),
    ),
    "GPUStatsMonitor": Case(
        lambda folder: GPUStatsMonitor(temperature=True), {"log_every_n_steps": 1}, prepare=_on_gpus
    ),
    "GradientAccumulationScheduler": Case(lambda folder: GradientAccumulationScheduler({0: 1, 1: 2, 2: 3})),
    "Heartbeat": Case(
        lambda folder: Heartbeat(folder / "heartbeat.json", every_n_seconds=1e-9),
        seen=lambda one, trainer: json.loads(one.path.read_text())["pid"] == os.getpid(),
    ),
    "LambdaCallback": Case(
        lambda folder: LambdaCallback(
            on_train_batch_end=lambda trainer, module, *_: module.log("rank", module.global_rank, sync_dist=True)
        ),
        seen=lambda one, trainer: float(trainer.callback_metrics["rank"]),
    ),
    "LearningRateFinder": Case(
        lambda folder: LearningRateFinder(min_lr=1e-4, num_training_steps=20),
        net=Steep,
        seen=lambda one, trainer: (trainer.lightning_module.lr, one.optimal_lr.results),
    ),
    "LearningRateMonitor": Case(
        lambda folder: LearningRateMonitor(log_momentum=True),
        {"log_every_n_steps": 1},
        seen=lambda one, trainer: one.lrs,
    ),
    "ModelCheckpoint": Case(
        lambda folder: ModelCheckpoint(
            folder / "best", monitor="own", mode="max", save_top_k=2, save_last=True, filename="{epoch}-{own}"
        ),
        seen=lambda one, trainer: (
            one.best_model_path,
            one.last_model_path,
            sorted(one.best_k_models),
            float(one.best_model_score),
        ),
    ),
    "ModelPruning": Case(
        lambda folder: ModelPruning("random_unstructured", amount=0.5, verbose=1),
        is_alone=False,
        refused="torch chooses what to prune among whole weights",
        seen=lambda one, trainer: [entry.pruned for entry in one.sparsity()],
    ),
    "ModelSummary": Case(lambda folder: ModelSummary(), net=Shown),
    "OnExceptionCheckpoint": Case(lambda folder: OnExceptionCheckpoint(folder, "another")),
    "ProgressBar": Case(lambda folder: ProgressBar(refresh_rate=2)),
    "ProgressBarBase": Case(lambda folder: Counting()),
    "PrometheusExporter": Case(
        lambda folder: PrometheusExporter(port=0, all_ranks=True), seen=lambda one, trainer: one.port
    ),
    "QuantizationAwareTraining": Case(
        lambda folder: QuantizationAwareTraining(), is_alone=False, refused="torch quantises whole weights"
    ),
    "RichModelSummary": Case(lambda folder: RichModelSummary(), net=Shown),
    "RichProgressBar": Case(lambda folder: RichProgressBar(leave=True)),
    "SpikeDetection": Case(
        lambda folder: SpikeDetection(window=4, exclude_batches_path=folder),
        net=Spiking,
        seen=lambda one, trainer: trainer.global_step,
    ),
    "StochasticWeightAveraging": Case(lambda folder: StochasticWeightAveraging(0.02, 2, annealing_epochs=2)),
    "TensorBoardLogger": Case(
        lambda folder: TensorBoardLogger(folder, log_graph=True),
        {"log_every_n_steps": 1},
        net=Shown,
        seen=lambda one, trainer: (one.log_dir, one.version),
    ),
    "TQDMProgressBar": Case(lambda folder: TQDMProgressBar()),
    "ThroughputMonitor": Case(
        lambda folder: ThroughputMonitor(batch_size_fn=len),
        {"log_every_n_steps": 1},
        seen=lambda one, trainer: one.metrics,
    ),
    "Timer": Case(
        lambda folder: Ticking({"seconds": 3}),
        is_alone=False,
        seen=lambda one, trainer: (trainer.global_step, one.time_elapsed()),
    ),
    "WeightAveraging": Case(lambda folder: WeightAveraging(use_buffers=False)),
}


def outcomes(folder: str, *names: str, strategies: tuple[str, ...] = ("ddp", "fsdp")) -> dict[tuple[str, str], Any]:
    """Run cases of these names by each strategy, one after the other; return what each has come to in this process."""
    return {(name, one): _outcome(name, one, Path(folder, one, name)) for one in strategies for name in names}


def alone(name: str, folder: Path) -> dict[str, Any]:
    """Run a case in this process, with the doubled batch."""
    return _outcome(name, "auto", folder)


def _outcome(name: str, strategy: str, folder: Path) -> dict[str, Any]:
    case = CASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    printed, found, began = io.StringIO(), {"error": ""}, time.process_time()
    torch.manual_seed(17 + int(os.environ.get("RANK", "0")))
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            found |= _run(case, strategy, folder)
    except BaseException as error:
        found["error"] = "".join(traceback.format_exception(error))
    return {**found, "printed": printed.getvalue(), "seconds": time.process_time() - began}


def _run(case: Case, strategy: str, folder: Path) -> dict[str, Any]:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    module, part = case.net(WORLD_BATCH // world), case.make(folder)
    is_logger = isinstance(part, Logger)
    settings: dict[str, Any] = {
        "max_epochs": EPOCHS, "accelerator": ACCELERATOR, "discover_callbacks": False,
        "default_root_dir": folder, "logger": part if is_logger else CSVLogger(folder / "logs"),
        "callbacks": [] if is_logger else [part], "num_sanity_val_steps": 0,
    }  # fmt: skip
    trainer = Trainer(strategy=strategy, **{**settings, **case.arguments})
    error = ""
    with pytest.MonkeyPatch.context() as monkeypatch:
        case.prepare(trainer, monkeypatch)
        try:
            trainer.fit(module)
        except TrainingSpikeException as raised:
            error = str(raised)
    if case.predicts:
        trainer.predict(module)
    return {
        "weights": dict(_whole(module.state_dict())),
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "steps": trainer.global_step,
        "rank": trainer.global_rank,
        "raised": error,
        "seen": case.seen(part, trainer),
        "rows": _rows_of(folder) if trainer.is_global_zero else [],
        "files": sorted(_name(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    }


def _whole(state: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors as plain ones; int8 modules have pairs of weight and bias."""
    for name, value in state.items():
        for index, one in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(one, Tensor):
                one = one.full_tensor() if isinstance(one, DTensor) else one
                yield f"{name}.{index}", one.dequantize() if one.is_quantized else one.clone()
