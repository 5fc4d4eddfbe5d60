"""The threads that sample: shared, stopped by the last who watches, harmless to forks, exits and failing drivers."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

import pytest

from leyden_monitoring import sampling
from leyden_monitoring.sampling import Query, UnsupportedError, watch


class Counter:
    """Numbers its samples, and lets a test wait for one."""

    title = "the counter"

    def __init__(self, **more: Query) -> None:
        self.queries: Mapping[str, Query] = {"count": self._count, **more}
        self.samples = self.closed = 0
        self._sampled = threading.Condition()

    def _count(self) -> Mapping[str, float]:
        with self._sampled:
            self.samples += 1
            self._sampled.notify_all()
        return {"samples": self.samples}

    def wait_for(self, samples: int) -> None:
        with self._sampled:
            assert self._sampled.wait_for(lambda: self.samples >= samples, timeout=60)

    def close(self) -> None:
        self.closed += 1


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "leyden samples the counter"]


def never() -> Counter:
    raise AssertionError("opened twice")


def test_it_samples_until_the_last_who_watches_has_gone() -> None:
    counter = Counter()
    first = watch("counter", lambda: counter, 1e-3)
    assert first.latest["samples"] >= 1
    (thread,) = threads()
    assert thread.daemon
    second = watch("counter", never, 1e-3)
    first.close()
    first.close()
    assert threads() == [thread]
    counter.wait_for(counter.samples + 2)
    second.close()
    assert (threads(), counter.closed) == ([], 1)
    done = counter.samples
    assert second.latest["samples"] == done


def test_after_the_last_a_new_thread_begins() -> None:
    for _ in range(2):
        counter = Counter()
        watch("counter", lambda counter=counter: counter, 3600).close()  # type: ignore[misc]
        assert (threads(), counter.closed) == ([], 1)


def test_the_shortest_interval_counts() -> None:
    counter = Counter()
    slow = watch("counter", lambda: counter, 3600)
    counter.wait_for(2)
    quick = watch("counter", never, 1e-3)
    counter.wait_for(6)
    assert slow.latest["samples"] >= 5  # the slow one has what the quick one brought, an hour before its own turn
    quick.close()
    slow.close()
    assert (threads(), counter.closed) == ([], 1)


def test_what_cannot_be_opened_leaves_nothing_behind() -> None:
    def fails() -> Counter:
        raise OSError("no such device")

    with pytest.raises(OSError, match="no such device"):
        watch("counter", fails, 1)
    assert threads() == []
    watch("counter", Counter, 1).close()


def test_what_is_not_supported_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def fan() -> Mapping[str, float]:
        asked.append("fan")
        raise UnsupportedError

    counter = Counter(fan=fan)
    one = watch("counter", lambda: counter, 1e-3)
    counter.wait_for(4)
    assert (asked, one.missing) == (["fan"], ["fan"])
    one.close()
    assert caplog.records == []


def test_a_driver_that_fails_is_told_of_once_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    state = {"fails": True}

    def power() -> Mapping[str, float]:
        if state["fails"]:
            raise RuntimeError("GPU is lost")
        return {"power": 5.0}

    counter = Counter(power=power)
    with caplog.at_level(logging.WARNING, "leyden"):
        one = watch("counter", lambda: counter, 1e-3)
        counter.wait_for(4)
        assert "power" not in one.latest
        state["fails"] = False
        counter.wait_for(counter.samples + 2)
        assert one.latest["power"] == 5.0
        one.close()
    assert [record.getMessage() for record in caplog.records] == [
        "The power of the counter cannot be read: RuntimeError: GPU is lost"
    ]


def test_a_sample_that_is_old_is_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that hangs must not leave the last number standing as if it were of now."""
    hangs, release = threading.Event(), threading.Event()

    def hang() -> Mapping[str, float]:
        if hangs.is_set():
            assert release.wait(60)
        return {"power": 5.0}

    counter = Counter(power=hang)
    one = watch("counter", lambda: counter, 1e-3)
    assert one.latest["power"] == 5.0
    hangs.set()
    counter.wait_for(counter.samples + 1)
    monkeypatch.setattr(sampling, "monotonic", lambda: time.monotonic() + 11)
    assert one.latest == {}
    release.set()
    one.close()


def test_closing_does_not_wait_for_a_driver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_PATIENCE_S", 0.01)
    release = threading.Event()

    def hang() -> Mapping[str, float]:
        assert release.wait(60)
        return {}

    one = watch("counter", lambda: Counter(hang=hang), 1)
    assert one.latest == {}
    (thread,) = threads()
    one.close()
    assert thread.is_alive()
    release.set()
    thread.join(60)
    assert threads() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_can_watch_and_close_whatever_its_parent_was_doing() -> None:
    one = watch("counter", Counter, 3600)
    with sampling._registry.lock:  # held while it forks, as another thread might hold it
        child = os.fork()
        if child == 0:
            ok = False
            try:
                one.close()  # the parent's
                own = watch("counter", Counter, 3600)
                ok = own.latest["samples"] >= 1 and len(threads()) == 1
                own.close()
            finally:
                os._exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(threads()) == 1
    one.close()


def test_it_never_keeps_a_process_from_its_exit() -> None:
    code = """
from leyden_monitoring.device_sources import watch_cpu
print("memory_percent" in watch_cpu(0.001).latest)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
