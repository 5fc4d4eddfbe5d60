"""Runs that are asked to end, by one process or all, in hooks of every kind, for `test_parallel_endings`."""

from __future__ import annotations

import os
from typing import Any

from tests.parallel_runs import ACCELERATOR, WORLD_BATCH, Net
from torch import Tensor

from leyden import Callback, Trainer

__all__ = ["HOOKS", "endings"]

HOOKS = (
    "on_train_batch_start", "on_train_batch_end", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end",
    "on_fit_start",
)  # fmt: skip


class Validated(Net):
    """With a validation after every other of its six batches."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).square().mean(), sync_dist=True)

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


class AskAt(Callback):
    """Some processes ask in a hook, once so many batches are done; takes down what has been done in this one."""

    def __init__(self, hook: str, batches: int, ranks: tuple[int, ...]) -> None:
        self.hook, self.batches, self.ranks = hook, batches, ranks
        self.events: list[str] = []
        for name in HOOKS:
            setattr(self, name, lambda trainer, *_, name=name: self._at(trainer, name))

    def _at(self, trainer: Trainer, hook: str) -> None:
        done = trainer.fit_loop.batches_seen
        self.events.append(f"{hook} {done}")
        if self.hook == "taken back" and hook == "on_train_batch_end" and done in (2, 4):
            trainer.should_stop = done == 2  # before `min_steps` of 6 are there
        place = "on_train_batch_end" if self.hook == "taken back" else self.hook
        if (hook, done) == (place, self.batches) and trainer.global_rank in self.ranks:
            trainer.should_stop = True


def endings(cases: list[tuple[str, int, tuple[int, ...], dict[str, Any]]]) -> list[tuple[int, list[str]]]:
    """Run each case of hook, batches, ranks that ask and arguments of the trainer; return steps and events of each."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    ends = []
    for hook, batches, ranks, arguments in cases:
        asking = AskAt(hook, batches, ranks)
        trainer = Trainer(
            **{
                "max_epochs": 4, "accelerator": ACCELERATOR, "logger": False, "discover_callbacks": False,
                "callbacks": [asking], "val_check_interval": 2, "num_sanity_val_steps": 0, **arguments,
            }
        )  # fmt: skip
        trainer.fit(Validated(WORLD_BATCH // world))
        assert trainer.should_stop
        ends.append((trainer.global_step, asking.events))
    return ends
