"""A run's memory does not grow with its steps."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, Trainer
from leyden.loggers import CSVLogger
from leyden.testing import BoringModule


class Measured(BoringModule):
    """Logs for steps and epochs, from tensors and numbers, with every reduction that needs no values kept."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        for reduction in ("mean", "sum", "max"):
            self.log(f"{reduction} of tensors", loss, on_step=True, on_epoch=True, reduce_fx=reduction)
            self.log(f"{reduction} of numbers", batch_idx / 7, on_step=True, on_epoch=True, reduce_fx=reduction)
        return {"loss": loss, "extra": [loss * 2]}


class Weigh(Callback):
    """Takes the memory that Python holds, and the tensors that are alive, at some steps."""

    def __init__(self, *steps: int) -> None:
        self._steps = steps
        self.bytes: list[int] = []
        self.tensors: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step in self._steps:
            gc.collect()
            self.tensors.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))
            self.bytes.append(tracemalloc.get_traced_memory()[0])


@pytest.fixture
def _traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


class Endless:
    """The same batch, as often as it is asked for."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.ones(2, 4)


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("automatic", [True, False])
def test_a_long_epoch_with_metrics_takes_no_more_than_a_short_one(automatic: bool, tmp_path: Path) -> None:
    class Chosen(Measured):
        automatic_optimization = automatic

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            output = super().training_step(batch, batch_idx)
            if not automatic:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(output["loss"])
                optimizer.step()
            return output

    weigh = Weigh(250, 1500)
    trainer = Trainer(
        accelerator="cpu", max_steps=1500, callbacks=weigh, logger=CSVLogger(tmp_path), log_every_n_steps=50,
        discover_callbacks=False,
    )  # fmt: skip
    trainer.fit(Chosen(), Endless())
    assert weigh.tensors[1] == weigh.tensors[0]
    # A number of 24 bytes kept in each step would be 30,000 bytes.
    assert weigh.bytes[1] - weigh.bytes[0] < 20_000
