"""The cases that ignite has a counterpart for, where it is installed: it has no idle callbacks and no CSV logger."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.cases import Case
from benchmarks.digits import EPOCHS, DigitsMLP
from benchmarks.handwritten import Net

__all__ = ["VERSION", "run", "supports", "train_digits"]

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


def train_digits(folder: Path, train: Any, val: Any) -> None:
    """The production run, with ignite's counterparts: it has none of the machine's statistics."""
    handlers = importlib.import_module("ignite.handlers")
    metrics = importlib.import_module("ignite.metrics")
    module = DigitsMLP()
    optimizer = module.configure_optimizers()

    def train_step(engine: Any, batch: list[Tensor]) -> Tensor:
        module.train()
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(batch[0]), batch[1])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def evaluation_step(engine: Any, batch: list[Tensor]) -> tuple[Tensor, Tensor]:
        module.eval()
        with torch.inference_mode():
            return module(batch[0]), batch[1]

    events, trainer, evaluator = _engine.Events, _engine.Engine(train_step), _engine.Engine(evaluation_step)
    metrics.Loss(functional.cross_entropy).attach(evaluator, "val_loss")
    metrics.Accuracy().attach(evaluator, "val_acc")
    metrics.RunningAverage(output_transform=lambda loss: loss.item()).attach(trainer, "train_loss")
    metrics.Frequency(output_transform=lambda loss: 32).attach(trainer, "samples_per_sec")
    handlers.ProgressBar().attach(trainer, ["train_loss"])
    trainer.add_event_handler(events.EPOCH_COMPLETED, lambda engine: evaluator.run(val))

    def score(engine: Any) -> float:
        return -float(engine.state.metrics["val_loss"])

    def global_step(engine: Any, event: Any) -> int:
        return int(trainer.state.iteration)

    saved = {"model": module, "optimizer": optimizer, "trainer": trainer}
    disk = handlers.DiskSaver(str(folder), require_empty=False)
    best = handlers.Checkpoint(saved, disk, "best", score, "val_loss", 1, global_step)
    last = handlers.Checkpoint(saved, disk, "last", n_saved=1, global_step_transform=global_step)
    evaluator.add_event_handler(events.COMPLETED, handlers.EarlyStopping(3, score, trainer))
    evaluator.add_event_handler(events.COMPLETED, best)
    evaluator.add_event_handler(events.COMPLETED, last)
    logger = handlers.TensorboardLogger(log_dir=str(folder / "logs"))
    often = events.ITERATION_COMPLETED(every=50)
    logger.attach_output_handler(trainer, often, "train", metric_names=["train_loss", "samples_per_sec"])
    logger.attach_opt_params_handler(trainer, often, optimizer)
    logger.attach_output_handler(
        evaluator, events.COMPLETED, "val", metric_names=["val_loss", "val_acc"], global_step_transform=global_step
    )
    trainer.run(train, max_epochs=EPOCHS)
    logger.close()
    assert trainer.state.epoch == EPOCHS
