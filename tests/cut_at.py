"""What cuts a run in its tests."""

from __future__ import annotations

from typing import Any

from leyden import Callback, Trainer

__all__ = ["Cut", "CutAt"]


class Cut(Exception):
    """Ends a run as a crash would."""


class CutAt(Callback):
    """Raises in the `at`-th call of a hook; those of the sanity check do not count."""

    def __init__(self, hook: str, at: int) -> None:
        self.hook, self.left = hook, at

    def _count(self, trainer: Trainer, hook: str) -> None:
        if hook == self.hook and not trainer.sanity_checking:
            self.left -= 1
            if self.left == 0:
                raise Cut

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "epoch")

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "train_batch")

    def on_after_backward(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "backward")

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "batch_end")

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "validation_batch")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "validation_end")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._count(trainer, "epoch_end")
