"""A fit that has not begun yet, begun as if a value that its optimizers are made of had been another from the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.lifecycle import make_optimizers
from leyden.state.rng import restore_rng

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["make_optimizers_anew", "with_random_numbers_of"]


def make_optimizers_anew(trainer: Trainer, checkpoint: dict[str, Any] | None) -> None:
    """Ask for optimizers and schedulers again, in `on_fit_start`.

    `checkpoint` is the one that the fit resumes, made before the value was known: what it holds of optimizers, and is
    about to be loaded into them, is replaced.
    """
    hook = trainer.journal.hook
    make_optimizers(trainer)
    trainer.journal.hook = hook
    if checkpoint is not None:
        checkpoint["optimizer_states"] = [optimizer.state_dict() for optimizer in trainer.optimizers]
        checkpoint["lr_schedulers"] = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]


def with_random_numbers_of(checkpoint: dict[str, Any] | None) -> None:
    """Search as the fit that is resumed would have: its random numbers are put back only when training goes on."""
    if checkpoint is not None and "rng" in checkpoint:
        restore_rng(checkpoint["rng"])
