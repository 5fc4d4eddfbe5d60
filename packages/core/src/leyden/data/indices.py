"""Which items of its dataset a batch is made of, for those who ask."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

__all__ = ["IndexRecorder", "recorder_of", "recording"]


class IndexRecorder:
    """A sampler, or batch sampler, that remembers what it gave until the batch made of it is read.

    Workers read ahead: what was drawn waits here, in the order in which the batches will come.

    Example:
        >>> recorder = IndexRecorder([[0, 1], [2]])
        >>> list(recorder), recorder.take(), recorder.take(), recorder.take()
        ([[0, 1], [2]], [0, 1], [2], [])
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self._drawn: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def __iter__(self) -> Iterator[Any]:
        self._drawn.clear()  # of a pass that a limit ended, with batches read ahead
        for drawn in self._sampler:
            self._drawn.append(drawn)
            yield drawn

    def take(self) -> list[Any]:
        """Return the indices of the next batch, an empty list where the loader drew none for it."""
        if not self._drawn:
            return []
        drawn = _plain(self._drawn.popleft())
        return [_plain(index) for index in drawn] if isinstance(drawn, list | tuple) else [drawn]


def _plain(drawn: Any) -> Any:
    """Tensors and arrays, also those of a single index, are no keys to find an item by."""
    return drawn.tolist() if hasattr(drawn, "tolist") else drawn


def recording(loader: Any) -> Any:
    """Return a loader of the same batches whose indices are recorded; `loader` itself where it has none.

    A ``DataLoader`` over a map-style dataset has indices, if its batches come in the order in which they are drawn.
    """
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or not getattr(loader, "in_order", True)
    ):
        return loader
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    recorded = copy.copy(loader)
    # Past DataLoader's refusal to have its samplers replaced; workers that the original keeps are not shared.
    recorded.__dict__.update({name: IndexRecorder(getattr(loader, name)), "_iterator": None})
    return recorded


def recorder_of(loader: Any) -> IndexRecorder | None:
    """Return the recorder that `recording` put into `loader`."""
    samplers = [getattr(loader, name, None) for name in ("batch_sampler", "sampler")]
    return next((sampler for sampler in samplers if isinstance(sampler, IndexRecorder)), None)
