"""A torchmetrics `Metric` that was logged: it reduces itself, the record says when."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leyden.errors import MisconfigurationException, with_article
from leyden.logging.buffer import widest_on
from leyden.logging.exchange import Share
from leyden.logging.records import Key, Record, Traits
from leyden.logging.values import is_metric, raise_changed_kind

__all__ = ["MetricRecord", "attribute_of"]


_NEEDS_ALL = 2.0**32


class MetricRecord(Record):
    """Computes the metric when the epoch's value is wanted and resets it when the epoch is over."""

    kind = "metric"
    __slots__ = ("attribute", "metric")

    def __init__(self, key: Key, traits: Traits, dtype: torch.dtype, *, metric: Any, attribute: str | None) -> None:
        self.metric = metric
        self.attribute = attribute
        super().__init__(key, traits, dtype)

    def reset(self) -> None:
        """Forget this epoch's values, those inside the metric too."""
        if getattr(self, "count", 0):
            self.metric.reset()
        super().reset()

    def add(self, value: Any, size: int, step: int) -> None:
        """Note that the metric was logged; the step's value is what its last ``forward`` returned, if it was called."""
        if value is not self.metric:
            self._change(value)
        self.latest = value._forward_cache if self.traits.on_step else None
        self.step = step
        self.fresh = self.latest is not None
        self.count += 1

    def _change(self, metric: Any) -> None:
        """Take another metric object, as a module may make one per epoch."""
        hook, name, _ = self.key
        if not is_metric(metric):
            raise_changed_kind(hook, name, metric)
        if self.count:
            raise MisconfigurationException(
                f"self.log({name!r}, ...) in `{hook}` got two {type(metric).__name__} objects in one epoch. "
                "Log each metric object under a name of its own."
            )
        self.metric = metric

    def latest_tensor(self) -> Tensor:
        return self._scalar(self.latest)

    def compute(self) -> Tensor:
        return self._scalar(self.metric.compute())

    # Metrics of several processes reduce by themselves: in `compute`, and for a step's value as ``dist_sync_on_step``
    # says. What is shared is how many have it, and whether torchmetrics could do without the others.

    def epoch_share(self) -> Share:
        return Share("sum", 1.0 + _NEEDS_ALL * self._needs_all(), 1.0, self.count > 0)

    def check_number(self, shared: float, world_size: int) -> None:
        """Refuse a metric that some processes have no data for, where torchmetrics would fail in gathering it."""
        if shared % _NEEDS_ALL < world_size and shared >= _NEEDS_ALL:
            raise MisconfigurationException(
                f"The metric {type(self.metric).__name__} logged as {self.key[1]!r} keeps the values of all batches, "
                "and torchmetrics cannot gather them where a process has had no data. There are fewer samples than "
                "processes: evaluate more of them, or with fewer processes, or use a metric with a state of fixed size "
                "(many take thresholds=...)."
            )

    def lengths_of_lists(self) -> list[int]:
        """Return how many tensors there are in lists that torchmetrics gathers one by one; most it concatenates."""
        return [
            len(getattr(self.metric, name))
            for name, default in self.metric._defaults.items()
            if isinstance(default, list) and getattr(self.metric._reductions[name], "__name__", "") != "dim_zero_cat"
        ]

    def check_lengths(self, of_all: list[list[int]]) -> None:
        """Refuse lists of different lengths: torchmetrics would wait in the longer ones for ever."""
        if any(each != of_all[0] for each in of_all):
            counts = ", ".join(str(max(each)) for each in of_all)
            raise MisconfigurationException(
                f"The metric {type(self.metric).__name__} logged as {self.key[1]!r} keeps a list of tensors, which "
                f"torchmetrics gathers one by one: as many in each process. They have {counts}, since their shares of "
                "the data differ. Evaluate as many batches in each (limit_val_batches, limit_test_batches), or gather "
                "yourself what it is computed of, and give it sync_on_compute=False."
            )

    def _needs_all(self) -> bool:
        """Whether there are lists of another dtype than that of the empty one that torchmetrics sends for no data."""
        lists = [
            getattr(self.metric, name) for name, default in self.metric._defaults.items() if isinstance(default, list)
        ]
        return any(one.dtype != self.metric.dtype for there in lists for one in there if isinstance(one, Tensor))

    def _scalar(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = with_article(type(value).__name__)
            if isinstance(value, Tensor):
                found = f"a tensor of shape {tuple(value.shape)}"
            raise MisconfigurationException(
                f"The metric {type(self.metric).__name__} logged as {self.key[1]!r} in `{self.key[0]}` computes "
                f"{found}, and a logger takes single numbers. Compute it yourself and log its parts."
            )
        scalar: Tensor = value.detach().reshape(())
        if not scalar.is_floating_point():
            return scalar.to(widest_on(scalar.device))
        return scalar.to(torch.promote_types(scalar.dtype, torch.float32))

    def description(self) -> dict[str, Any]:
        return {**super().description(), "attribute": self.attribute}

    def state_dict(self) -> dict[str, Any]:
        """Return the metric's own state beside the record's; without it a resumed epoch would start from nothing."""
        state = super().state_dict()
        latest = self.latest
        state["latest"] = latest.detach().clone() if isinstance(latest, Tensor) else None
        values = {name: getattr(self.metric, name) for name in self.metric._defaults}
        state["metric"] = {name: _copied(value) for name, value in values.items()}
        state["update_count"] = self.metric._update_count
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for name, value in state["metric"].items():
            setattr(self.metric, name, _moved(value, self.metric.device))
        self.metric._update_count = state["update_count"]
        self.metric._computed = None


def attribute_of(metric: object, module: nn.Module | None) -> str | None:
    """Return the path of `metric` among the submodules of `module`, by which a resumed run finds it again."""
    if module is None:
        return None
    return next((path for path, child in module.named_modules() if child is metric), None)


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(part) for part in value]
    return value.detach().clone() if isinstance(value, Tensor) else value


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return value.to(device).clone() if isinstance(value, Tensor) else value
