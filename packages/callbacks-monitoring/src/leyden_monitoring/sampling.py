"""One daemon thread per thing that is measured: it samples beside the training, and a hook takes its last sample."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable, Mapping
from time import monotonic
from typing import Protocol

__all__ = ["Query", "Source", "UnsupportedError", "Watch", "watch"]

_log = logging.getLogger("leyden")

Query = Callable[[], Mapping[str, float]]
"""Reads one or several series by name; raises `UnsupportedError` where the device will never have them."""

_FIRST_WAIT_S = 0.1
"""Between the first two samples: what is measured between two, such as CPU use, is then there early."""

_PATIENCE_S = 5.0
"""How long a run waits for the first sample as it begins, and for the thread to end."""


class UnsupportedError(Exception):
    """The device does not have what was asked for, and will not have it later."""


class Source(Protocol):
    """What is measured.

    Attributes:
        title: as it is called in messages, "GPU 0 (NVIDIA H100)".
        queries: what is read for one sample, each under the word by which a message names it.
    """

    title: str
    queries: Mapping[str, Query]

    def close(self) -> None:
        """Give up what opening took; called once, by the sampling thread."""


class _Sampler:
    """Samples one source until nobody watches it any more, at the shortest interval that anyone asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._queries = dict(source.queries)
        self._told: set[str] = set()
        self.title = source.title
        self.missing: list[str] = []  # words of queries that the source does not support
        self.latest: Mapping[str, float] = {}  # replaced as a whole, never changed: no reader needs a lock
        self.sampled_at = monotonic()
        self.intervals: list[float] = []  # one for each who watches
        self.wake, self._has_first = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"leyden samples {source.title}", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._has_first.wait(_PATIENCE_S)

    def stop(self) -> None:
        """End the thread. One that a driver holds captive is left to itself: it is a daemon, and keeps no exit."""
        self.wake.set()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        self._sample()
        self._has_first.set()
        wait_s = _FIRST_WAIT_S
        while intervals := self.intervals.copy():
            self.wake.wait(min(wait_s, *intervals))
            self.wake.clear()
            if self.intervals:
                self._sample()
            wait_s = min(self.intervals, default=0.0)
        self._source.close()

    def _sample(self) -> None:
        values: dict[str, float] = {}
        for word, query in list(self._queries.items()):
            try:
                values.update(query())
            except UnsupportedError:
                del self._queries[word]
                self.missing.append(word)
            except Exception as error:  # whatever a driver does, the training is none of its business
                if word not in self._told:
                    self._told.add(word)
                    _log.warning("The %s of %s cannot be read: %s: %s", word, self.title, type(error).__name__, error)
        self.latest, self.sampled_at = values, monotonic()


class Watch:
    """One callback's view of a source that several may share; `close` it when the run ends.

    Attributes:
        title: what is watched, as messages call it.
    """

    def __init__(self, key: Hashable, sampler: _Sampler, every_n_seconds: float) -> None:
        self._key, self._sampler, self._every_n_seconds = key, sampler, every_n_seconds
        self.title = sampler.title

    @property
    def latest(self) -> Mapping[str, float]:
        """The last sample by name; empty where it is old, because the driver does not answer any more."""
        sampler = self._sampler
        is_old = monotonic() - sampler.sampled_at > 3 * self._every_n_seconds + 2 * _PATIENCE_S
        return {} if is_old else sampler.latest

    @property
    def missing(self) -> list[str]:
        """The words of queries that the source does not support."""
        return list(self._sampler.missing)

    def close(self) -> None:
        """Watch no more; the last who does ends the thread. May be called twice."""
        sampler = self._sampler
        with _registry.lock:
            if _registry.samplers.get(self._key) is not sampler or self._every_n_seconds not in sampler.intervals:
                return  # closed, or this is a forked process, in which the thread is not
            sampler.intervals.remove(self._every_n_seconds)
            self._every_n_seconds = -1.0
            if sampler.intervals:
                return
            del _registry.samplers[self._key]
        sampler.stop()


class _Registry:
    """The samplers of this process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.samplers: dict[Hashable, _Sampler] = {}


_registry = _Registry()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    # A forked process, as a dataloader's worker is, has none of these threads, and maybe a lock nobody will open.
    os.register_at_fork(after_in_child=_registry.reset)


def watch(key: Hashable, open_source: Callable[[], Source], every_n_seconds: float) -> Watch:
    """Watch the source of this `key`, which is opened where nobody watches it yet; it has a sample when this returns.

    Raises what `open_source` raises.
    """
    with _registry.lock:
        sampler = _registry.samplers.get(key)
        is_new = sampler is None
        if sampler is None:
            sampler = _registry.samplers[key] = _Sampler(open_source())
        sampler.intervals.append(every_n_seconds)
    if is_new:
        sampler.start()
    else:
        sampler.wake.set()
    return Watch(key, sampler, every_n_seconds)
