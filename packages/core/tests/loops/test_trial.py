"""A trial: a trainer of its own beside a run, which ends when its watcher says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden import Callback, LightningModule, Trainer
from leyden.loggers import CSVLogger
from leyden.loops.trial import EndOfTrial, trial
from leyden.testing import BoringModule


class Ends(Callback):
    """Ends a trial before its third batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.batches_seen == 2:
            raise EndOfTrial


class Tries(Callback):
    """Makes a trial, and keeps what it saw of it."""

    def __init__(self, hook: str) -> None:
        self.hook, self.seen = hook, dict[str, Any]()
        setattr(self, hook, self._try)

    def _try(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        weight = pl_module.layer.weight.detach().clone()  # type: ignore[union-attr,operator]
        steps = trainer.global_step
        with trial(trainer, Ends(), ["train_dataloader"]) as aside:
            self.seen = {
                "its own": aside is not trainer and pl_module.trainer is aside,
                "callbacks": [type(one) for one in aside.callbacks],
                "step": aside.global_step - steps,
                "epoch": aside.current_epoch,
                "loggers": [type(one).__name__ for one in aside.loggers],
                "limits": (aside.max_epochs, aside.max_steps, aside.limit_val_batches),
                "optimizers": aside.optimizers == trainer.optimizers,
                "is training": aside.training,
            }
            aside.fit_loop.run()
        self.seen |= {
            "after": pl_module.trainer is trainer,
            "weights": torch.equal(pl_module.layer.weight, weight),  # type: ignore[union-attr,arg-type]
            "steps": trainer.global_step == steps,
            "made": aside.global_step - steps,
        }


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_epoch_end"])
def test_a_trial_beside_a_fit(hook: str, tmp_path: Any) -> None:
    tries = Tries(hook)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, logger=CSVLogger(tmp_path), callbacks=[tries], discover_callbacks=False
    )
    trainer.fit(BoringModule())
    assert tries.seen == {
        "its own": True,
        "callbacks": [Ends],
        "step": 0,
        "epoch": 1 if "epoch" in hook else 0,
        "loggers": ["DummyLogger"],
        "limits": (-1, -1, 0),
        "optimizers": True,
        "is training": True,
        "after": True,
        "weights": True,
        "steps": True,
        "made": 2,
    }
    assert trainer.global_step == 4
    assert trainer.callbacks == [tries]


def test_what_a_trial_raises_is_raised_when_all_is_put_back() -> None:
    class Fails(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise ValueError("in the trial")

    class TriesAndFails(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            with (
                pytest.raises(ValueError, match="in the trial"),
                trial(trainer, Fails(), ["train_dataloader"]) as aside,
            ):
                aside.fit_loop.run()
            assert pl_module.trainer is trainer
            assert trainer.callbacks == [self]

    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[TriesAndFails()], discover_callbacks=False
    )
    trainer.fit(BoringModule())
    assert trainer.global_step == 2
