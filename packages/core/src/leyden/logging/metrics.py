"""Metrics by name, each of which knows the step it is from; and numbers taken from many tensors with one wait."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from leyden.logging.buffer import widest_on

__all__ = ["MetricsDict", "to_floats"]

K = TypeVar("K", bound=Hashable)


class MetricsDict(dict[str, Tensor]):
    """Metrics by name, as ``trainer.callback_metrics`` gives them.

    Every value put in by the trainer remembers the `global_step` it was computed at, so that a checkpoint or a stopping
    rule can tell a fresh score from an old one.

    Example:
        >>> metrics = MetricsDict()
        >>> metrics.put("val_loss", torch.tensor(0.5), step=40)
        >>> metrics["val_loss"], metrics.step_of("val_loss")
        (tensor(0.5000), 40)
    """

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        super().__init__()
        self._steps: dict[str, int] = {}

    def put(self, name: str, value: Tensor, step: int) -> None:
        """Set `name` to `value`, computed when `step` optimizer steps had been taken."""
        self[name] = value
        self._steps[name] = step

    def step_of(self, name: str) -> int:
        """Return the `global_step` at which the metric `name` was computed; ``KeyError`` when nobody logged it."""
        if name not in self or name not in self._steps:
            raise KeyError(f"no metric {name!r} was logged; there are {sorted(self)}")
        return self._steps[name]

    def clear(self) -> None:
        """Forget all metrics and their steps."""
        super().clear()
        self._steps.clear()

    def state_dict(self) -> dict[str, list[Any]]:
        """Return ``[value, step]`` by name."""
        return {name: [_without_graph(self[name]), step] for name, step in self._steps.items() if name in self}

    def load_state_dict(self, state: Mapping[str, list[Any]]) -> None:
        """Take over what `state_dict` returned."""
        self.clear()
        for name, (value, step) in state.items():
            self.put(name, value, step)


def _without_graph(value: Tensor) -> Tensor:
    # The same object where it can be: a metric is in several dicts, and in a file once.
    return value.detach() if value.requires_grad else value


def to_floats(values: Mapping[K, float | Tensor]) -> dict[K, float]:
    """Turn `values` into plain numbers, waiting for each device once and not once per value."""
    numbers: dict[K, float] = {}
    elsewhere: dict[torch.device, dict[K, Tensor]] = {}
    for key, value in values.items():
        if not isinstance(value, Tensor):
            numbers[key] = float(value)
        elif value.is_cpu:
            numbers[key] = float(value.item())
        else:
            numbers[key] = 0.0  # holds its place in the order
            elsewhere.setdefault(value.device, {})[key] = value
    for device, there in elsewhere.items():
        column = torch.stack([value.detach().to(widest_on(device)).reshape(()) for value in there.values()])
        numbers.update(zip(there, column.tolist(), strict=True))
    return numbers
