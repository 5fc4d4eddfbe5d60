"""The cases that ignite has a counterpart for, where it is installed: it has no idle callbacks and no CSV logger."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.handwritten import Net

__all__ = ["VERSION", "run", "supports"]

_engine: Any = importlib.import_module("ignite.engine")
VERSION: str = importlib.import_module("ignite").__version__


def supports(case: Case) -> bool:
    """Whether ignite can run the case at all."""
    return not (case.idle_callbacks or case.logged)


def _nothing(engine: Any) -> None:
    pass


def run(case: Case, batches: Iterable[Any], folder: str) -> None:
    """One epoch over ``batches``; nothing is written to ``folder``."""
    module = Net()
    optimizer = module.configure_optimizers()
    outputs: list[Tensor] = []

    def train_step(engine: Any, batch: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    def evaluation_step(engine: Any, batch: Tensor) -> None:
        outputs.append(step(batch, 0))

    step = module.validation_step if case.stage == "validate" else module.predict_step
    engine = _engine.Engine(train_step if case.stage == "fit" else evaluation_step)
    for _ in range(case.batch_callbacks):
        engine.add_event_handler(_engine.Events.ITERATION_STARTED, _nothing)
        engine.add_event_handler(_engine.Events.ITERATION_COMPLETED, _nothing)
    with torch.inference_mode(case.stage != "fit"):
        engine.run(batches, max_epochs=1)
