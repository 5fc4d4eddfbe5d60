"""What there is to say of an epoch whose batches ran out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from leyden.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from leyden.data.sources import TrainSource
    from leyden.trainer import Trainer

__all__ = ["check_length"]


def check_length(trainer: Trainer, source: TrainSource, *, validates: bool) -> None:
    """The batches ran out by themselves: were there any, and as many as the dataloader said?"""
    loop, module = trainer.fit_loop, trainer.lightning_module
    if not loop.batches_done:
        raise source.nothing_read_error()
    if loop.epoch == 0 and not trainer.engine.steps and trainer.optimizers and module.automatic_optimization:
        rank_zero_info(
            f"No optimizer step was taken in the whole first epoch. Does {type(module).__name__}.training_step "
            "return the loss?"
        )
    unknown = source.num_batches == math.inf
    if unknown and validates and loop.schedule.is_beyond(loop.batches_done, loop.epoch):
        rank_zero_warn(
            f"validation did not run: Trainer(val_check_interval={loop.schedule.every_n_batches}) is more than the "
            f"{loop.batches_done} training batches of epoch {loop.epoch}, whose number was not known before. Lower "
            "it, or set check_val_every_n_epoch=None to count batches across epochs."
        )
    if not loop.is_last_batch:
        trainer.strategy.await_end_of_batches(loop.batches_seen, loop.batches_done)
        rank_zero_warn(
            f"train_dataloader has the length {source.num_batches} but ended after {loop.batches_done} batches; "
            "correct its __len__, since limits, the last accumulation window and validation count on it."
        )
