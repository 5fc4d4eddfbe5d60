"""A fit that has not begun yet: how a search finds it, and how it begins with what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.lifecycle import make_optimizers
from leyden.state.rng import restore_rng
from leyden_optim.accumulation import GradientAccumulationScheduler

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["accumulation_of", "make_optimizers_anew", "with_random_numbers_of"]


def make_optimizers_anew(trainer: Trainer, checkpoint: dict[str, Any] | None) -> None:
    """Ask for optimizers and schedulers again, in `on_fit_start`: they are made of what was found.

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


def accumulation_of(trainer: Trainer) -> int:
    """Return how many batches the next optimizer step has; a scheduler of it may not have had its turn."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler):
            at = trainer.current_epoch if callback.interval == "epoch" else trainer.global_step
            return callback.get_accumulate_grad_batches(at)
    return trainer.accumulate_grad_batches
