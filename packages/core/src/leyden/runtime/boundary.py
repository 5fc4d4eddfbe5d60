"""A place between batches that all processes of a run agree on through their store: where they stop, or end."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from leyden.errors import ProcessFailedError

__all__ = ["Boundary"]

_ANSWER_S = 8.0
"""How long a process may take to say where it stops; only one that is gone, or holds the interpreter, takes longer."""


class Boundary:
    """The way to such a place: somebody asks, each process says its word, the last of these counts.

    Args:
        name: Of its keys in the store, behind `prefix`.
        patience_s: How long the process itself may take to say its word; then its thread does.
        heard: Called in the thread when somebody has asked.
        position: Returns the number of batches done, and the number from which on processes may have different ones
            left; called in the thread.
        say_news: Lets the threads of all processes look.

    Attributes:
        asked: whether this process has asked; no lock guards it, for which a second signal would wait for ever.
        word: the process's own, once it has said it.
        told: set when `behind` is known, or never will be.
        behind: where it is.
    """

    def __init__(
        self, name: str, patience_s: float, heard: Callable[[], None], *, store: Any, prefix: str, rank: int,
        world_size: int, position: Callable[[], tuple[float, float]], say_news: Callable[[], None],
    ) -> None:  # fmt: skip
        self._patience_s, self._heard = patience_s, heard
        self._store, self._prefix, self._rank, self._world_size = store, f"{prefix}/{name}", rank, world_size
        self._position, self._say_news = position, say_news
        self.asked, self.told, self.behind = False, threading.Event(), 0.0
        self.word: float | None = None
        self._open_since: float | None = None
        self._is_said = False

    @property
    def is_open(self) -> bool:
        """Whether somebody has asked, and nobody knows yet where it is."""
        return self._open_since is not None and not self.told.is_set()

    def advance(self) -> ProcessFailedError | None:
        """Do what can be done without waiting to learn where it is; return what says that a process does not answer."""
        if self.told.is_set():
            return None
        store = self._store
        if self._open_since is None:
            if not (self.asked or store.check([self._prefix])):
                return None
            store.set(self._prefix, "1")
            self._say_news()
            self._open_since = time.monotonic()
            self._heard()
        waited_s = time.monotonic() - self._open_since
        if not self._is_said and (self.word is not None or waited_s >= self._patience_s):
            self._say()
        if store.check([f"{self._prefix}/behind"]):
            self.behind = json.loads(store.get(f"{self._prefix}/behind"))
            self.told.set()
        elif waited_s > _ANSWER_S:
            return self._of_silent()
        return None

    def _say(self) -> None:
        """Say where this process is at the latest when it looks next; whoever says it last knows what counts."""
        store, (done, until_end) = self._store, self._position()
        # The thread's word, after `heard`: this process now looks behind the batch that runs, or behind the one before.
        word = done + 1 if self.word is None else self.word
        self.word, self._is_said = word, True
        store.set(self._word_of(self._rank), json.dumps([word, until_end]))
        if store.add(f"{self._prefix}/words", 1) == self._world_size:
            words = [json.loads(said) for said in store.multi_get(list(map(self._word_of, range(self._world_size))))]
            last, end = max(said[0] for said in words), min(said[1] for said in words)
            store.set(f"{self._prefix}/behind", json.dumps(last if last < end else math.inf))

    def _word_of(self, rank: int) -> str:
        return f"{self._prefix}/{rank}"

    def _of_silent(self) -> ProcessFailedError:
        silent = [rank for rank in range(self._world_size) if not self._store.check([self._word_of(rank)])]
        return ProcessFailedError(
            f"Process {self._rank} of {self._world_size} was asked to stop, as all are, and of process(es) "
            f"{', '.join(map(str, silent[:8]))} nothing was heard for {_ANSWER_S:.0f} seconds: they are gone."
        )
