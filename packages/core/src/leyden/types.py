"""Names for the values that steps and entry points return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

__all__ = [
    "EVALUATE_OUTPUT",
    "EVAL_DATALOADERS",
    "PREDICT_OUTPUT",
    "STEP_OUTPUT",
    "TRAIN_DATALOADERS",
    "OptimizerLRScheduler",
]

STEP_OUTPUT: TypeAlias = Tensor | Mapping[str, Any] | None
"""What a step may return: the loss, a mapping that holds it under ``"loss"``, or ``None`` to skip the batch."""

EVALUATE_OUTPUT: TypeAlias = list[dict[str, float]]
"""What ``Trainer.validate`` and ``Trainer.test`` return: one dict of metrics per dataloader."""

PREDICT_OUTPUT: TypeAlias = list[Any] | list[list[Any]]
"""What ``Trainer.predict`` returns: predictions per batch, or one such list per dataloader when there are several."""

TRAIN_DATALOADERS: TypeAlias = Any
"""What ``train_dataloader`` may return: an iterable of batches, a collection of them or a `CombinedLoader`."""

EVAL_DATALOADERS: TypeAlias = Any
"""What the other dataloader methods may return: an iterable of batches, a list of them or a `CombinedLoader`."""

OptimizerLRScheduler: TypeAlias = Optimizer | Sequence[Any] | Mapping[str, Any] | None
"""What ``configure_optimizers`` may return: an optimizer, a list, a pair of lists, a dict, a list of dicts, or None."""
