"""What the processes of a run tell each other beside their work: where all of them stop, and that one has failed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Agreement"]

_POLL_S = 0.2
_TAKING_NOTE_S = 3.0
_PATIENCE_S = 20.0
"""How long a process that another one's failure has left waiting may take to end by itself."""


class Agreement:
    """A thread in each process that looks now and then into the store at which the processes met; no step pays for it.

    **Stopping.** Once a process has asked, the thread of each calls `heard`, after which its process asks
    `stops_behind` at every boundary between batches, and tells at which boundary that will be at the latest. The last
    of these is where all stop. A process that is at an earlier one before all have told waits there: for threads only,
    which nothing that the processes do together can hold up.

    **Failing.** A process tells of its own failure by `fail`. Others, which its silence will fail too, find out by
    `failure` why. One that is still waiting for it 20 seconds later is ended, since nothing else would wake it.

    Args:
        store: A connection of this one's own to the processes' store.
        name: Of this run among all that the processes have together.
        position: Returns the number of batches done; called in the thread.
        heard: Called in the thread when somebody has asked for a stop.
    """

    def __init__(
        self, store: Any, name: str, rank: int, world_size: int, position: Callable[[], int], heard: Callable[[], None]
    ) -> None:
        self._store, self._prefix, self._rank, self._world_size = store, f"leyden/{name}", rank, world_size
        self._position, self._heard = position, heard
        self._asked, self._told, self._over = threading.Event(), threading.Event(), threading.Event()
        self._ends = threading.Event()  # by itself, be it well or with an error
        self._behind = 0
        self._failure: tuple[int, str] | None = None
        self._thread = threading.Thread(target=self._listen, name="leyden-agreement", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Ask all to stop. For a signal's handler, too: the thread does the rest."""
        self._asked.set()

    def stops_behind(self, batches: int) -> bool:
        """Whether this is where all stop, with so many batches done; waits until all processes have heard."""
        self._told.wait()
        return batches >= self._behind

    def fail(self, error: str) -> None:
        """Tell the others that this process has failed, unless another has; wait a moment for them to take note.

        The store may be this process's own, and go with it.
        """
        self._ends.set()
        told = json.dumps([self._rank, error])
        others = [f"{self._prefix}/failed/{rank}" for rank in range(self._world_size) if rank != self._rank]
        with contextlib.suppress(RuntimeError):  # the store is gone: nobody is left to be told
            if self._store.compare_set(f"{self._prefix}/failed", "", told) == told.encode():
                until = time.monotonic() + _TAKING_NOTE_S
                while not self._store.check(others) and time.monotonic() < until:
                    time.sleep(0.02)

    def failure(self, within_s: float = 0.0) -> tuple[int, str] | None:
        """Return who failed first, if another process, and how; None where none has by then."""
        self._thread.join(within_s)  # it ends when it has taken note
        return self._failure

    def close(self) -> None:
        """End the thread. Processes that wait for this one's word get it: it will not go further than it is."""
        self._over.set()
        self._ends.set()
        self._thread.join()

    def _listen(self) -> None:
        try:
            with contextlib.suppress(RuntimeError):  # the store is gone with its process: nothing is agreed any more
                self._listen_for_all()
        finally:
            self._told.set()

    def _listen_for_all(self) -> None:
        store, wanted, failed = self._store, f"{self._prefix}/stop", f"{self._prefix}/failed"
        own = f"{self._prefix}/stop/{self._rank}"
        while not self._over.wait(_POLL_S):
            if self._asked.is_set() and not store.check([wanted]):
                store.set(wanted, "1")
            if store.check([failed]):
                self._take_note(json.loads(store.get(failed)))
                return
            if not self._told.is_set() and store.check([wanted]):
                self._heard()
                # After `heard`: this process now asks at the boundary of the batch that runs, or at the one before.
                store.set(own, str(self._position() + 1))
                self._await_all()
        if not store.check([own]):
            store.set(own, str(self._position()))

    def _await_all(self) -> None:
        places = [f"{self._prefix}/stop/{rank}" for rank in range(self._world_size)]
        while not self._store.check(places):
            if self._store.check([f"{self._prefix}/failed"]) or self._over.wait(0.01):
                return
        self._behind = max(int(place) for place in self._store.multi_get(places))
        self._told.set()

    def _take_note(self, failure: tuple[int, str]) -> None:
        rank, error = failure
        if rank == self._rank:
            return
        self._failure = rank, error
        self._store.set(f"{self._prefix}/failed/{self._rank}", "1")
        self._told.set()
        threading.Thread(target=self._end_if_it_waits, name="leyden-end", daemon=True).start()

    def _end_if_it_waits(self) -> None:
        assert self._failure is not None
        if self._ends.wait(_PATIENCE_S):
            return
        rank, error = self._failure
        sys.stderr.write(
            f"Process {rank} of {self._world_size} failed, and process {self._rank} still waits for it; it is ended.\n"
            f"{error}"
        )
        sys.stderr.flush()
        os._exit(1)
