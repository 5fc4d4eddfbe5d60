"""What the processes of a run tell each other beside their work: where all of them stop, and that one has failed."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.errors import ProcessFailedError
from leyden.runtime.boundary import Boundary
from leyden.runtime.running_out import RunningOut

__all__ = ["Agreement"]

_POLL_S = 0.2
_POLLS_PER_S = 5000
"""How often all processes together may ask the store, which answers ten times as many; the more, the rarer each."""
_OWN_WORD_S = 1.0
"""How long a process may take to come to where it looks itself whether training ends."""
_TAKING_NOTE_S = 3.0
_PATIENCE_S = 20.0
"""How long a process may take to end by itself after another one's failure: it waits, or it is at work for long."""


class Agreement:
    """A thread in each process that looks now and then into the store at which the processes met; no step pays for it.

    **Stopping.** Once a process has asked, the thread of each calls `heard`, after which its process asks
    `stops_behind` at every boundary between batches, and tells at which boundary that will be at the latest. The last
    of these is where all stop. A process that is at an earlier one before all have told waits there: for threads only,
    which nothing that the processes do together can hold up.

    **Ending.** So it is with the end of training that `trainer.should_stop` asks for, except that a process says itself
    where it is when it looks (`ends_behind`): where all ask at one place, that is it. For one that does not look within
    a second, since it waits for another in the middle of a batch, its thread names the next batch.

    **Failing.** A process tells of its own failure by `fail`. Others, which its silence will fail too, find out by
    `failure` why. One that is still waiting for it 20 seconds later is ended, since nothing else would wake it. A
    process that does not say where it stops, and a store that is gone, are failures too.

    Args:
        store: A connection of this one's own to the processes' store.
        name: Of this run among all that the processes have together.
        position: Returns the number of batches done, and the number from which on processes may have different ones
            left; called in the thread.
        heard: Called in the thread when somebody has asked for a stop.
        heard_end: Likewise for the end of training.
    """

    def __init__(
        self, store: Any, name: str, rank: int, world_size: int, position: Callable[[], tuple[float, float]],
        heard: Callable[[], None], heard_end: Callable[[], None],
    ) -> None:  # fmt: skip
        self._store, self._prefix, self._rank, self._world_size = store, f"leyden/{name}", rank, world_size
        self._heard, self._heard_end = heard, heard_end
        self._boundary = partial(
            Boundary, store=store, prefix=self._prefix, rank=rank, world_size=world_size, position=position,
            say_news=self._say_news,
        )  # fmt: skip
        self._stop = self._boundary("stop", 0.0, heard)
        self._end = self._boundary("end/0", _OWN_WORD_S, heard_end)
        self._rounds, self._met = 1, ("", 0)
        self._over, self._wakes = threading.Event(), threading.Event()
        self._lets_go = False
        self._ends = threading.Event()  # by itself, be it well or with an error
        self._failure: ProcessFailedError | None = None
        self._has_noted = False
        self.running_out = RunningOut(store, self._prefix, rank, world_size, self._say_news, lambda: self._failure)
        self._poll_s = max(_POLL_S, world_size / _POLLS_PER_S)
        self._thread = threading.Thread(target=self._listen, name="leyden-agreement", daemon=True)
        self._thread.start()

    # -- in the process ---------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask all to stop. For a signal's handler, too: the thread does the rest."""
        self._stop.asked = True

    @property
    def is_asked(self) -> bool:
        """Whether this process has asked."""
        return self._stop.asked

    def stops_behind(self, batches: float) -> bool:
        """Whether this is where all stop, with so many batches done; waits until all processes have heard.

        Raises:
            ProcessFailedError: one of them failed, or does not answer.
        """
        return self._is_behind(self._stop, batches)

    def ends_behind(self, place: float) -> bool:
        """Whether this is where all end, which this or another process has asked for; waits until all have said where.

        Raises:
            ProcessFailedError: one of them failed, or does not answer.
        """
        end = self._end
        if end.word is None:
            end.word = place
            end.asked = True
            self._wakes.set()
        return self._is_behind(end, place)

    def forget_end(self) -> None:
        """Training goes on, and may be asked to end again; called in all processes at the same place."""
        self._end = self._boundary(f"end/{self._rounds}", _OWN_WORD_S, self._heard_end)
        self._rounds += 1
        if self._lets_go:  # the thread, which would have told where, is done
            self._end.told.set()

    def _is_behind(self, boundary: Boundary, place: float) -> bool:
        boundary.told.wait()
        if self._failure is not None:
            raise self._failure
        return place >= boundary.behind

    def meet(self, place: str, within_s: float) -> bool:
        """Return whether all processes have come to `place`; waits until they have, or for so long.

        Raises:
            ProcessFailedError: one of them failed.
        """
        # A trial, which counts no batches, may come to one place several times.
        self._met = place, self._met[1] + 1 if self._met[0] == place else 1
        key, until = self._key(f"meet/{place}/{self._met[1]}"), time.monotonic() + within_s
        here = self._store.add(key, 1)
        while here < self._world_size and time.monotonic() < until:
            if self._failure is not None:
                raise self._failure
            time.sleep(0.005)
            here = self._store.add(key, 0)
        return bool(here == self._world_size)

    def fail(self, error: str) -> None:
        """Tell the others that this process has failed, unless another has; wait a moment for them to take note.

        The store may be this process's own, and go with it; or another's that is gone, or does not answer.
        """
        self._ends.set()
        _for_a_moment(partial(self._tell, json.dumps([self._rank, error])))

    def _tell(self, told: str) -> None:
        if self._store.compare_set(self._key("failed"), "", told) != told.encode():
            self._say_that_it_is_noted()  # the thread may end before it comes to that
            return
        if multiprocessing.parent_process() is None:
            atexit.register(self._say_that_it_is_printed)
        else:  # which the parent does, and atexit is not called
            self._say_that_it_is_printed()
        self._say_news()
        until = time.monotonic() + _TAKING_NOTE_S
        while self._store.add(self._key("noted"), 0) < self._world_size - 1 and time.monotonic() < until:
            time.sleep(0.02)

    def failure(self, within_s: float = 0.0) -> ProcessFailedError | None:
        """Return what says who failed first, if another process, and how; None where none has by then."""
        self._thread.join(within_s + self._poll_s if within_s else 0.0)  # it ends when it has taken note
        return self._failure

    def await_traceback(self) -> None:
        """Wait, for a moment, until the process that failed first has printed why: that is to be read first."""
        _for_a_moment(self._await_printed)

    def _await_printed(self) -> None:
        until = time.monotonic() + _TAKING_NOTE_S
        while not self._store.check([self._key("printed")]) and time.monotonic() < until:
            time.sleep(0.02)

    def close(self) -> None:
        """End the thread; one that waits for a store that does not answer is left to it."""
        self._over.set()
        self._wakes.set()
        self._ends.set()
        self._thread.join(_TAKING_NOTE_S + self._poll_s)

    def _say_that_it_is_noted(self) -> None:
        if not self._has_noted:
            self._has_noted = True
            self._store.add(self._key("noted"), 1)

    def _say_that_it_is_printed(self) -> None:
        """Called as the interpreter ends, after it has printed what was raised."""
        with contextlib.suppress(RuntimeError):  # no thread can be started by then
            self._store.set(self._key("printed"), "1")

    def _say_news(self) -> None:
        """Let all threads look at more than whether there are news."""
        self._store.set(self._key("news"), "1")

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
            self._let_go()

    def _let_go(self) -> None:
        """Let the process go on that waits to be told where a boundary is."""
        self._lets_go = True  # first: `forget_end` may put another boundary in place meanwhile
        self._stop.told.set()
        self._end.told.set()

    def _listen_for_all(self) -> None:
        store, failed = self._store, self._key("failed")
        while not self._over.is_set():
            boundaries = self._stop, self._end
            is_busy = any(one.is_open for one in boundaries)
            self._wakes.wait(self._poll_s / 4 if is_busy else self._poll_s)
            self._wakes.clear()
            if self._over.is_set() or not (any(one.asked for one in boundaries) or store.check([self._key("news")])):
                continue
            if store.check([failed]):
                self._take_note_of_other(*json.loads(store.get(failed)))
                return
            self.running_out.answer()
            for one in boundaries:
                if (failure := one.advance()) is not None:
                    self._take_note(failure)
                    return

    def _take_note_of_other(self, rank: int, error: str) -> None:
        if rank == self._rank:
            return
        self._say_that_it_is_noted()
        self._take_note(
            ProcessFailedError(
                f"Process {rank} of {self._world_size} failed, so that process {self._rank} cannot go on. What process "
                f"{rank} raised:\n{error}"
            )
        )

    def _take_note(self, failure: ProcessFailedError) -> None:
        self._failure = failure
        self._let_go()
        self._heard()  # so that a process that waits for nobody asks behind its batch, and ends
        threading.Thread(target=self._end_if_it_waits, name="leyden-end", daemon=True).start()

    def _end_if_it_waits(self) -> None:
        if self._ends.wait(_PATIENCE_S):
            return
        sys.stderr.write(f"{self._failure}\nProcess {self._rank} still waits, and is ended. Where its threads are:\n")
        sys.stderr.flush()
        faulthandler.dump_traceback()
        os._exit(1)


def _for_a_moment(ask: Callable[[], None]) -> None:
    """Call `ask`, which asks the store; go on without it where that is gone, or does not answer."""

    def try_to() -> None:
        with contextlib.suppress(RuntimeError):  # nobody is left to be told
            ask()

    asking = threading.Thread(target=try_to, name="leyden-asks", daemon=True)
    asking.start()
    asking.join(_TAKING_NOTE_S + 1.0)
