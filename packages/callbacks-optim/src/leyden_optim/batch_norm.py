"""A pass over the training data that gives BatchNorm the statistics of weights it was not trained with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leyden.errors import MisconfigurationException
from leyden.loops.steps import training_step_of, under_context

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["layers_to_update", "update_statistics"]


def layers_to_update(module: nn.Module) -> list[_BatchNorm]:
    """Return the layers whose statistics training gathered: those in evaluation mode keep the ones they came with."""
    layers = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    return [layer for layer in layers if layer.training and layer.running_mean is not None]


def update_statistics(trainer: Trainer, module: LightningModule, batches: int) -> None:
    """Compute the statistics of every BatchNorm layer in training mode anew, as `torch.optim.swa_utils.update_bn`.

    They are plain means over the batches of one epoch, those of all processes. The batches go through
    ``training_step``, which logs nothing now, and no hook is called; under manual optimisation, where that would train,
    through ``forward``. Of data without a length, which may have no end, so many `batches` are read.
    """
    layers, source, journal = layers_to_update(module), trainer.fit_loop.source, trainer.journal
    if not layers or source is None:
        return
    step, transfer = _step_of(trainer, module), trainer.batch_transfer
    source.set_epoch(trainer.current_epoch)
    with _cumulative(layers), journal.muted():
        limit = batches if source.num_batches == math.inf else None
        for batch_idx, given in enumerate(islice(source, limit)):
            batch = given if transfer is None else transfer(given, 0)
            journal.batch, journal.hook = batch, "training_step"
            step(batch, batch_idx)
            if trainer.attention_wanted:
                trainer.raise_on_sigterm()
        for layer in layers:
            for statistic in (layer.running_mean, layer.running_var):
                assert statistic is not None
                statistic.copy_(trainer.strategy.reduce(statistic))


@contextmanager
def _cumulative(layers: list[_BatchNorm]) -> Iterator[None]:
    """Start the layers' statistics at nothing, and let every batch in this context count the same."""
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


def _step_of(trainer: Trainer, module: LightningModule) -> Callable[..., Any]:
    if module.automatic_optimization:
        return training_step_of(
            trainer, backward=False
        )  # gradients are on, as it is made for: it may differentiate within itself

    @torch.no_grad()
    def forward(batch: Any, batch_idx: int) -> None:
        inputs = batch[0] if isinstance(batch, list | tuple) and batch else batch
        if not isinstance(inputs, torch.Tensor):
            raise MisconfigurationException(
                f"the BatchNorm statistics of {type(module).__name__} cannot be computed under manual optimisation: "
                f"forward() is given a batch that is a tensor, or the first of its parts, and this is a "
                f"{type(inputs).__name__}. Override StochasticWeightAveraging.update_batch_norm."
            )
        module(inputs)

    return under_context(forward, trainer.precision_plugin.forward_context)
