"""The three dicts of metrics that callbacks, users and progress bars read."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from leyden.logging.metrics import MetricsDict
from leyden.logging.records import Record

__all__ = ["Board"]


class Board:
    """Latest values by name, each with the step it is from.

    Attributes:
        callback: everything, also under the bare name where a metric is logged for steps and epochs.
        logged: what goes to loggers, under the names they get.
        progress_bar: what was logged with ``prog_bar=True``.

    Example:
        >>> import torch
        >>> from leyden.logging.records import Record, Traits
        >>> record = Record(("training_step", "loss", None), Traits("loss", on_step=True), torch.float32)
        >>> record.add(0.5, size=8, step=3)
        >>> board = Board()
        >>> board.put_latest(record)
        >>> board.callback
        {'loss': tensor(0.5000), 'loss_step': tensor(0.5000)}
        >>> board.logged
        {'loss_step': tensor(0.5000)}
    """

    __slots__ = ("callback", "logged", "progress_bar")

    def __init__(self) -> None:
        self.callback, self.logged, self.progress_bar = MetricsDict(), MetricsDict(), MetricsDict()

    def put_latest(self, record: Record) -> None:
        """Take a record's value of its last step, if it has one; of several processes, the last that they shared."""
        if not record.traits.on_step:
            return
        if record.of_all_latest is not None:
            self._put(record, record.traits.step_name, *record.of_all_latest)
        elif record.latest is not None:
            self._put(record, record.traits.step_name, record.latest_tensor(), record.step)

    def put_epoch(self, record: Record, value: Tensor, step: int) -> None:
        """Take a record's value of the epoch, reduced when `step` optimizer steps had been taken."""
        self._put(record, record.traits.epoch_name, value, step)

    def _put(self, record: Record, name: str, value: Tensor, step: int) -> None:
        traits = record.traits
        self.callback.put(traits.bare_name, value, step)
        self.callback.put(name, value, step)
        if traits.to_logger:
            self.logged.put(name, value, step)
        if traits.prog_bar:
            self.progress_bar.put(name, value, step)

    def clear(self) -> None:
        """Forget everything."""
        for metrics in (self.callback, self.logged, self.progress_bar):
            metrics.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the three dicts as plain data and tensors."""
        return {name: getattr(self, name).state_dict() for name in self.__slots__}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name in self.__slots__:
            getattr(self, name).load_state_dict(state[name])
