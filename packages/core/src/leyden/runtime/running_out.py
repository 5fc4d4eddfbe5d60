"""Whether the batches of all processes end behind the same one, where none knows before how many it has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from leyden.errors import MisconfigurationException, ProcessFailedError

__all__ = ["RunningOut"]

_POLL_S = 0.005
_WAKES_OTHERS_S = 0.1
"""How long one waits before the others look whether they go on; where all end at the same place, none has to."""


class RunningOut:
    """The end of each training epoch of unknown length: a process that comes to it waits until all have.

    Who has another batch is in it, or about to be, and waits there for the first one. Its thread says so in its place.

    Args:
        store: The thread's connection to the processes' store.
        prefix: Of the keys in it.
        rank: Of this process among the `world_size` of them.
        wake: Lets the other processes' threads `answer`.
        failure: Returns what another process failed with, if one has.

    Attributes:
        has_more: says whether this process has more than so many batches of the run.
    """

    def __init__(
        self, store: Any, prefix: str, rank: int, world_size: int, wake: Callable[[], None],
        failure: Callable[[], ProcessFailedError | None],
    ) -> None:  # fmt: skip
        self._store, self._prefix, self._rank, self._world_size = store, f"{prefix}/ran out", rank, world_size
        self._wake, self._failure, self._round, self._answered = wake, failure, 0, -1
        self.has_more: Callable[[int], bool] = lambda batches: False

    def await_others(self, batches: int, of_epoch: int, within_s: float) -> None:
        """Wait until all have come to the end of their batches, this process behind so many of the run and the epoch.

        Raises:
            MisconfigurationException: another process has more of them, or fewer.
            ProcessFailedError: one has failed meanwhile.
            TimeoutError: one has not come to its end within so many seconds.
        """
        store, key = self._store, f"{self._prefix}/{self._round}"
        here = json.dumps([self._rank, batches, of_epoch])
        rank, end, end_of_epoch = json.loads(store.compare_set(key, "", here))
        if end != batches:
            raise _different(rank, end_of_epoch, f"process {self._rank} has {of_epoch}", of_epoch)
        came, begun, is_told = store.add(f"{key}/came", 1), time.monotonic(), False
        while came < self._world_size:
            if (failure := self._failure()) is not None:
                raise failure
            if store.check([f"{key}/more"]):
                more = int(store.get(f"{key}/more"))
                raise _different(self._rank, of_epoch, f"process {more} has more than that", of_epoch)
            waited_s = time.monotonic() - begun
            if waited_s > _WAKES_OTHERS_S and not is_told:
                self._wake()
                is_told = True
            if waited_s > within_s:
                raise TimeoutError(
                    f"The training batches of process {self._rank} have ended after {of_epoch}, and others did not "
                    f"come to the end of theirs within the strategy's timeout of {within_s:.0f} seconds."
                )
            time.sleep(_POLL_S)
            came = store.add(f"{key}/came", 0)
        self._round += 1

    def answer(self) -> None:
        """Say, in the thread, that this process has more batches than one that waits at the end of its own."""
        store, round_ = self._store, self._round
        key = f"{self._prefix}/{round_}"
        if self._answered == round_ or not store.check([key]):
            return
        rank, batches, _ = json.loads(store.get(key))
        if rank != self._rank and self.has_more(batches):
            self._answered = round_
            store.set(f"{key}/more", str(self._rank))


def _different(rank: int, own: int, other: str, others: int) -> MisconfigurationException:
    return MisconfigurationException(
        f"The processes have different numbers of training batches in this epoch: process {rank} has {own}, {other}. "
        "Who has more would wait for the others. Let an IterableDataset give as many samples in each process: leave "
        "out what is over, begin anew where there are too few, or set "
        f"Trainer(limit_train_batches={min(own, others)}) if each process has so many in every epoch."
    )
