"""What the processes of a run tell each other beside their work: where all of them stop, and that one has failed."""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from leyden.errors import ProcessFailedError

__all__ = ["Agreement"]

_POLL_S = 0.2
_POLLS_PER_S = 5000
"""How often all processes together may ask the store, which answers ten times as many; the more, the rarer each."""
_ANSWER_S = 8.0
"""How long a process may take to say where it stops; only one that is gone, or holds the interpreter, takes longer."""
_TAKING_NOTE_S = 3.0
_PATIENCE_S = 15.0
"""How long a process that another one's failure has left waiting may take to end by itself."""


class Agreement:
    """A thread in each process that looks now and then into the store at which the processes met; no step pays for it.

    **Stopping.** Once a process has asked, the thread of each calls `heard`, after which its process asks
    `stops_behind` at every boundary between batches, and tells at which boundary that will be at the latest. The last
    of these is where all stop. A process that is at an earlier one before all have told waits there: for threads only,
    which nothing that the processes do together can hold up.

    **Failing.** A process tells of its own failure by `fail`. Others, which its silence will fail too, find out by
    `failure` why. One that is still waiting for it 15 seconds later is ended, since nothing else would wake it. A
    process that does not say where it stops, and a store that is gone, are failures too.

    Args:
        store: A connection of this one's own to the processes' store.
        name: Of this run among all that the processes have together.
        position: Returns the number of batches done, and the number from which on processes may have different ones
            left; called in the thread.
        heard: Called in the thread when somebody has asked for a stop.
    """

    def __init__(
        self, store: Any, name: str, rank: int, world_size: int, position: Callable[[], tuple[float, float]],
        heard: Callable[[], None],
    ) -> None:  # fmt: skip
        self._store, self._prefix, self._rank, self._world_size = store, f"leyden/{name}", rank, world_size
        self._position, self._heard = position, heard
        self._asked, self._told, self._over = threading.Event(), threading.Event(), threading.Event()
        self._ends = threading.Event()  # by itself, be it well or with an error
        self._behind: float = 0
        self._failure: ProcessFailedError | None = None
        self._poll_s = max(_POLL_S, world_size / _POLLS_PER_S)
        self._thread = threading.Thread(target=self._listen, name="leyden-agreement", daemon=True)
        self._thread.start()

    # -- in the process ---------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask all to stop. For a signal's handler, too: the thread does the rest."""
        self._asked.set()

    @property
    def is_asked(self) -> bool:
        """Whether this process has asked."""
        return self._asked.is_set()

    def stops_behind(self, batches: float) -> bool:
        """Whether this is where all stop, with so many batches done; waits until all processes have heard.

        Raises:
            ProcessFailedError: one of them failed, or does not answer.
        """
        self._told.wait()
        if self._failure is not None:
            raise self._failure
        return batches >= self._behind

    def meet(self, place: str, within_s: float) -> bool:
        """Return whether all processes have come to `place`; waits until they have, or for so long.

        Raises:
            ProcessFailedError: one of them failed.
        """
        key, until = self._key(f"meet/{place}"), time.monotonic() + within_s
        here = self._store.add(key, 1)
        while here < self._world_size and time.monotonic() < until:
            if self._failure is not None:
                raise self._failure
            time.sleep(0.005)
            here = self._store.add(key, 0)
        return bool(here == self._world_size)

    def fail(self, error: str) -> None:
        """Tell the others that this process has failed, unless another has; wait a moment for them to take note.

        The store may be this process's own, and go with it.
        """
        self._ends.set()
        told = json.dumps([self._rank, error])
        with contextlib.suppress(RuntimeError):  # the store is gone: nobody is left to be told
            if self._store.compare_set(self._key("failed"), "", told) != told.encode():
                return
            if multiprocessing.parent_process() is None:
                atexit.register(self._say_that_it_is_printed)
            else:  # which the parent does, and atexit is not called
                self._say_that_it_is_printed()
            self._store.set(self._key("news"), "1")
            until = time.monotonic() + _TAKING_NOTE_S
            while self._store.add(self._key("noted"), 0) < self._world_size - 1 and time.monotonic() < until:
                time.sleep(0.02)

    def failure(self, within_s: float = 0.0) -> ProcessFailedError | None:
        """Return what says who failed first, if another process, and how; None where none has by then."""
        self._thread.join(within_s + self._poll_s if within_s else 0.0)  # it ends when it has taken note
        return self._failure

    def await_traceback(self) -> None:
        """Wait, for a moment, until the process that failed first has printed why: that is to be read first."""
        until = time.monotonic() + _TAKING_NOTE_S
        with contextlib.suppress(RuntimeError):
            while not self._store.check([self._key("printed")]) and time.monotonic() < until:
                time.sleep(0.02)

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._ends.set()
        self._thread.join()

    def _say_that_it_is_printed(self) -> None:
        """Called as the interpreter ends, after it has printed what was raised."""
        with contextlib.suppress(RuntimeError):
            self._store.set(self._key("printed"), "1")

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            self._listen_for_all()
        except RuntimeError:
            if not self._over.is_set():
                self._take_note(
                    ProcessFailedError(
                        f"Process {self._rank} has lost the store at which the {self._world_size} processes met: the "
                        "launcher that held it, or process 0, is gone."
                    )
                )
        finally:
            self._told.set()

    def _listen_for_all(self) -> None:
        store, stop, failed = self._store, self._key("stop"), self._key("failed")
        while not self._over.wait(self._poll_s):
            if not (self._asked.is_set() or store.check([self._key("news")])):
                continue
            if store.check([failed]):
                self._take_note_of_other(*json.loads(store.get(failed)))
                return
            if self._told.is_set() or not (self._asked.is_set() or store.check([stop])):
                continue
            store.set(stop, "1")
            store.set(self._key("news"), "1")
            self._heard()
            self._settle()

    def _settle(self) -> None:
        """Say where this process stops at the latest; learn where all do."""
        store, behind = self._store, self._key("stop/behind")
        done, until_end = self._position()
        # After `heard`: this process now asks at the boundary of the batch that runs, or at the one before.
        store.set(self._word(self._rank), json.dumps([done + 1, until_end]))
        if store.add(self._key("stop/words"), 1) == self._world_size:
            words = [json.loads(word) for word in store.multi_get([self._word(r) for r in range(self._world_size)])]
            last, end = max(word[0] for word in words), min(word[1] for word in words)
            store.set(behind, json.dumps(last if last < end else math.inf))
        until = time.monotonic() + _ANSWER_S
        while not store.check([behind]):
            if self._over.wait(0.05) or store.check([self._key("failed")]):
                return
            if time.monotonic() > until:
                self._take_note(self._of_silent())
                return
        self._behind = json.loads(store.get(behind))
        self._told.set()

    def _word(self, rank: int) -> str:
        return self._key(f"stop/{rank}")

    def _of_silent(self) -> ProcessFailedError:
        silent = [rank for rank in range(self._world_size) if not self._store.check([self._word(rank)])]
        return ProcessFailedError(
            f"Process {self._rank} of {self._world_size} was asked to stop, as all are, and of process(es) "
            f"{', '.join(map(str, silent[:8]))} nothing was heard for {_ANSWER_S:.0f} seconds: they are gone."
        )

    def _take_note_of_other(self, rank: int, error: str) -> None:
        if rank == self._rank:
            return
        self._store.add(self._key("noted"), 1)
        self._take_note(
            ProcessFailedError(
                f"Process {rank} of {self._world_size} failed, so that process {self._rank} cannot go on. What process "
                f"{rank} raised:\n{error}"
            )
        )

    def _take_note(self, failure: ProcessFailedError) -> None:
        self._failure = failure
        self._told.set()
        self._heard()  # so that a process that waits for nobody asks behind its batch, and ends
        threading.Thread(target=self._end_if_it_waits, name="leyden-end", daemon=True).start()

    def _end_if_it_waits(self) -> None:
        if self._ends.wait(_PATIENCE_S):
            return
        sys.stderr.write(f"{self._failure}\nProcess {self._rank} still waits, and is ended.\n")
        sys.stderr.flush()
        os._exit(1)
