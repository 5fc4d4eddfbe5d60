"""Rows of an evaluation's batches, held back until the processes have brought their values together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from leyden.logging.metrics import to_floats
from leyden.logging.records import Key
from leyden.logging.sharing import Sharing

__all__ = ["HeldRows"]


class HeldRows:
    """What each batch logged for its step: processes may have different numbers of batches, so none is waited for.

    Attributes:
        of: rows by dataloader and index of the batch: the step, what is this process's alone by name, what is shared.
    """

    def __init__(self) -> None:
        self.of: dict[int | None, dict[int, tuple[dict[str, Any], dict[Key, float | Tensor]]]] = {}

    def hold(self, index: int | None, batch: int, own: dict[str, Any], shared: dict[Key, float | Tensor]) -> None:
        """Take the row of a batch."""
        self.of.setdefault(index, {})[batch] = own, shared

    def shared(self, sharing: Sharing) -> Iterator[tuple[int | None, int, dict[str, Any]]]:
        """Share what was held, and yield each row with its dataloader and batch; others may have had more of them."""
        batches = {index: {at: row[1] for at, row in rows.items()} for index, rows in self.of.items()}
        found = sharing.share_batches(batches)
        records = {record.key: record for record in sharing.of_steps}
        for key, values in found.items():
            if values and values[-1] is not None:
                records[key].take_latest(values[-1], records[key].step)
        held, self.of = self.of, {}
        for index in sorted({*held, *(key[2] for key in found)}, key=lambda one: -1 if one is None else one):
            there = {key: values for key, values in found.items() if key[2] == index}
            count = max([len(values) for values in there.values()] + [max(held.get(index, {}), default=-1) + 1])
            for at in range(count):
                row = dict(held.get(index, {}).get(at, ({}, {}))[0])
                for key, values in there.items():
                    if records[key].traits.to_logger and at < len(values) and values[at] is not None:
                        row[records[key].traits.step_name] = values[at]
                yield index, at, row

    def state_dict(self) -> list[Any]:
        """Return the rows as plain data."""
        return [
            [index, at, to_floats(own), [[*key, number] for key, number in to_floats(shared).items()]]
            for index, rows in self.of.items()
            for at, (own, shared) in rows.items()
        ]

    def load_state_dict(self, state: list[Any]) -> None:
        """Take over what `state_dict` returned."""
        self.of = {}
        for index, at, own, shared in state:
            self.hold(index, at, own, {(hook, name, loader): value for hook, name, loader, value in shared})
