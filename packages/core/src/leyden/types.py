"""Names for the values that steps and entry points return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor

__all__ = ["EVALUATE_OUTPUT", "PREDICT_OUTPUT", "STEP_OUTPUT"]

STEP_OUTPUT: TypeAlias = Tensor | Mapping[str, Any] | None
"""What a step may return: the loss, a mapping that holds it under ``"loss"``, or ``None`` to skip the batch."""

EVALUATE_OUTPUT: TypeAlias = list[dict[str, float]]
"""What ``Trainer.validate`` and ``Trainer.test`` return: one dict of metrics per dataloader."""

PREDICT_OUTPUT: TypeAlias = list[Any] | list[list[Any]]
"""What ``Trainer.predict`` returns: predictions per batch, or one such list per dataloader when there are several."""
