"""Trainings that a TensorBoardLogger logs, read by TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import LightningModule, Trainer

__all__ = ["FAILURE", "SUCCESS", "Drawn", "Net", "Points", "fit", "hparams", "loader", "read", "scalars"]

Points = list[tuple[int, float]]


def read(folder: str | Path) -> EventAccumulator:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    return reader.Reload()


def scalars(folder: str | Path) -> dict[str, Points]:
    """Every point of a run by its tag, with the bits that a point keeps."""
    reader = read(folder)
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def hparams(folder: str | Path) -> tuple[dict[str, Any], list[str], list[str], int | None]:
    """The values of a run, the names and the metrics that have a column, and how it ended."""
    reader = read(folder)
    found = {tag: reader.SummaryMetadata(tag).plugin_data.content for tag in reader.Tags()["tensors"]}
    start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG]).hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    end = found.get(metadata.SESSION_END_INFO_TAG)
    status = None if end is None else metadata.parse_session_end_info_plugin_data(end).status
    if metadata.EXPERIMENT_TAG not in found:
        return values, [], [], status
    experiment = metadata.parse_experiment_plugin_data(found[metadata.EXPERIMENT_TAG])
    columns = [info.name for info in experiment.hparam_infos]
    return values, columns, [info.name.tag for info in experiment.metric_infos], status


SUCCESS, FAILURE = 1, 2


class Net(LightningModule):
    """Logs by step and by epoch, in training and validation."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self(batch).mean())

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test", self(batch).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def loader() -> DataLoader[Any]:
    return DataLoader(torch.linspace(-1, 1, 32).view(8, 4), batch_size=2)  # type: ignore[arg-type]


def fit(logger: Any, module: LightningModule | None = None, **settings: Any) -> Trainer:
    torch.manual_seed(1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=settings.pop("max_epochs", 2),
        log_every_n_steps=1,
        logger=logger,
        enable_checkpointing=False,
        discover_callbacks=False,
        **settings,
    )
    trainer.fit(module or Net(), loader(), loader())
    return trainer


class Drawn(Net):
    """With an example, a layer kept in evaluation mode and one that draws random numbers in that mode too."""

    example: Any = torch.ones(3, 4)

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = self.example
        self.frozen = nn.BatchNorm1d(4).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(self.frozen(x) + torch.rand(()))
        return y
