"""The exact sequences of hooks: every event of every run in ``tests/traces``, in order.

The files are the specification's; each is the complete list of events of one run, as `leyden.testing.HookRecorder`
writes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from leyden import Trainer
from leyden.callback import Callback, Checkpoint
from leyden.testing import BoringModule, HookRecorder

TRACES = Path(__file__).with_name("traces")
EXTRA_HOOKS = (
    *("configure_callbacks", "configure_optimizers", "train_dataloader", "val_dataloader"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
    *("training_step", "validation_step", "backward"),
    *("optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping"),
    *("on_validation_model_zero_grad", "on_validation_model_eval"),
)


def trace(name: str) -> list[str]:
    events: list[str] = json.loads((TRACES / f"{name}.json").read_text())
    return events


def trainer_with(callbacks: Sequence[Callback], **arguments: Any) -> Trainer:
    return Trainer(
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        log_every_n_steps=1,
        discover_callbacks=False,
        **arguments,
    )


@pytest.mark.parametrize(
    ("name", "entry_point", "arguments"),
    [
        ("fit_two_epochs", "fit", {"max_epochs": 2}),
        ("validate", "validate", {}),
        ("test", "test", {}),
        ("predict", "predict", {}),
    ],
)
def test_entry_points(name: str, entry_point: str, arguments: dict[str, int]) -> None:
    recorder = HookRecorder()
    trainer = trainer_with([recorder.callback("cb")], **arguments)
    module = recorder.module(BoringModule)
    recorder.ended(trainer, lambda: getattr(trainer, entry_point)(module))
    assert recorder.events == trace(name)


def test_fit_with_every_hook_of_the_module() -> None:
    recorder = HookRecorder()
    trainer = trainer_with([recorder.callback("cb")], max_epochs=1)
    module = recorder.module(BoringModule, also=EXTRA_HOOKS)
    recorder.ended(trainer, lambda: trainer.fit(module))
    assert recorder.events == trace("fit_module_extra_hooks")


def test_fit_with_a_checkpoint_given_first() -> None:
    recorder = HookRecorder()
    callbacks = [recorder.callback("ckpt", Checkpoint), recorder.callback("a"), recorder.callback("b")]
    trainer = trainer_with(callbacks, max_epochs=1)
    recorder.ended(trainer, lambda: trainer.fit(recorder.module(BoringModule)))
    assert recorder.events[-1] == "end @1/2"
    assert recorder.events[:-1] == trace("order_with_checkpoint")
