"""Factories that cannot work: each is reported in one line and left out, and nothing else is."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

from leyden.discovery import Broken
from leyden.discovery.factories import EndedByItself, TimeLimit
from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from packages.core.tests.conftest import Site


class Failure(NamedTuple):
    """The code of a broken module, what its entry point names, and the cause that is told."""

    code: str
    cause: str
    value: str = "broken:make"


NOT_A_LIST = "a factory returns a list of callbacks"
FAILURES = {
    "import": Failure("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "syntax": Failure("def make(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
    "no module": Failure("", "ModuleNotFoundError: No module named 'brokn'", "brokn:make"),
    "missing": Failure("", "AttributeError: module 'broken' has no attribute 'make'"),
    "malformed value": Failure(
        "", "ValueError: 'broken make!' does not name a function; expected `module:function`", "broken make!"
    ),
    "a module": Failure("", "ValueError: 'broken' does not name a function; expected `module:function`", "broken"),
    "not callable": Failure(
        "make = 3", "TypeError: it names 3, which cannot be called; name a function that returns callbacks"
    ),
    "raises": Failure("def make(): raise RuntimeError('no\\n  driver')", "RuntimeError: no driver"),
    "raises while imported": Failure("raise OSError(28, 'No space left')", "OSError: [Errno 28] No space left"),
    "raises what cannot be shown": Failure(
        "class Odd(Exception):\n    def __str__(self): raise RuntimeError\ndef make(): raise Odd", "Odd"
    ),
    "sys.exit": Failure("import sys\ndef make(): sys.exit(2)", "SystemExit: 2"),
    "sys.exit while imported": Failure("import sys\nsys.exit('bye')", "SystemExit: bye"),
    "KeyboardInterrupt": Failure("def make(): raise KeyboardInterrupt", "KeyboardInterrupt"),
    "BaseException": Failure("class Stop(BaseException): ...\ndef make(): raise Stop('now')", "Stop: now"),
    "RecursionError": Failure("def make(): return make()", "RecursionError: maximum recursion depth exceeded"),
    "wants more": Failure(
        "def make(one, two): return []",
        "TypeError: make() missing 2 required positional arguments: 'one' and 'two'",
    ),
    "returns None": Failure("def make(): return None", f"TypeError: it returned None; {NOT_A_LIST}"),
    "returns text": Failure("def make(): return 'bar'", f"TypeError: it returned 'bar'; {NOT_A_LIST}"),
    "returns a number": Failure("def make(): return 3", f"TypeError: it returned 3; {NOT_A_LIST}"),
    "returns a class": Failure(
        "from found import Bar\ndef make(): return Bar", f"TypeError: it returned <class 'found.Bar'>; {NOT_A_LIST}"
    ),
    "returns one callback": Failure(
        "from found import Bar\nclass Own(Bar):\n    def __repr__(self): return 'a bar'\ndef make(): return Own()",
        f"TypeError: it returned a bar; {NOT_A_LIST}: return [callback]",
    ),
    "returns numbers": Failure(
        "def make(): return [1, 2]",
        "TypeError: it returned 1 among its callbacks; each must be an instance of leyden.Callback",
    ),
    "returns classes": Failure(
        "from found import Bar\ndef make(): return [Bar]",
        "TypeError: it returned <class 'found.Bar'> among its callbacks; each must be an instance of leyden.Callback",
    ),
    "returns a dict": Failure("def make(): return {}", "TypeError: it returned {}; " + NOT_A_LIST),
    "a class of its own": Failure(
        "class make:\n    def __repr__(self): return 'a make'", f"TypeError: it returned a make; {NOT_A_LIST}"
    ),
    "applies": Failure(
        "from leyden.callback import Callback\n"
        "class Odd(Callback):\n    def applies(self, trainer): raise OSError('no NVML')\n"
        "def make(): return [Callback(), Odd()]",
        "OSError: no NVML",
    ),
    "state_key": Failure(
        "from leyden.callback import Callback\n"
        "class Odd(Callback):\n    state_key = 3\n    def __repr__(self): return 'Odd()'\n"
        "def make(): return [Odd()]",
        "TypeError: it returned Odd(), whose state_key is 3, not a string",
    ),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_factory_that_fails_is_reported_in_a_line_and_left_out(site: Site, failure: Failure) -> None:
    site.add("broken", failure.code, f"x = {failure.value}", version="3.2")
    site.add("sound", "from found import *\ndef make(): return [Watch()]", "y = sound:make")
    with pytest.warns(UserWarning, match="^The callbacks of broken") as caught:
        found = site.discover()
    assert [type(p.callback).__name__ for p in found.placed] == ["Watch"]
    (message,) = (str(warning.message) for warning in caught)
    assert message == (
        f"The callbacks of broken 3.2 are left out: its entry point `x = {failure.value}` in the group "
        f"leyden.callbacks_factory failed with {failure.cause}"
    )
    assert found.broken == [Broken("broken", "3.2", "x", failure.value, failure.cause)]


@pytest.mark.parametrize("code", ["def make():\n    yield Bar()", "def make(): return (Bar() for _ in range(1))"])
def test_a_generator_is_refused_with_the_fix(site: Site, code: str) -> None:
    site.add("broken", f"from found import *\n{code}", "x = broken:make")
    with pytest.warns(UserWarning, match="generator object") as caught:
        assert site.discover().placed == []
    assert str(caught[0].message).endswith(f"; {NOT_A_LIST}: return [...] instead of yield, or list(...) around it")


def test_a_coroutine_is_refused_and_closed(site: Site) -> None:
    site.add("broken", "async def make(): return []", "x = broken:make")
    with pytest.warns(UserWarning, match="it returned <coroutine object make at") as caught:
        assert site.discover().placed == []
    assert len(caught) == 1  # and none that it was never awaited


HANGS = """
import builtins, threading
forever = builtins.forever
def make():
    forever.wait()
    return []
"""


@pytest.fixture
def forever(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What a factory waits for in vain."""
    event = threading.Event()
    monkeypatch.setattr("builtins.forever", event, raising=False)
    return event


def test_a_factory_that_hangs_is_left_out_after_its_time(site: Site, forever: threading.Event) -> None:
    site.add("stuck", HANGS, "x = stuck:make")
    site.configure("[discovery]\ntimeout_s = 0.05")
    with pytest.warns(UserWarning, match=r"^The callbacks of stuck 1\.0") as caught:
        assert site.discover().placed == []
    assert str(caught[0].message).endswith("TimeoutError: it took longer than 0.05 s (timeout_s in [discovery])")
    hanging = [thread for thread in threading.enumerate() if thread.name == "leyden: x"]
    assert [thread.daemon for thread in hanging] == [True]
    forever.set()
    for thread in hanging:
        thread.join()


def test_ctrl_c_reaches_the_user_while_a_factory_runs(
    site: Site, forever: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import signal, os, builtins\ndef make():\n    os.kill(os.getpid(), signal.SIGINT)\n    builtins.forever.wait()"
    )
    site.add("slow", code, "x = slow:make")
    with pytest.raises(KeyboardInterrupt):
        site.discover()
    forever.set()


def test_a_factory_may_import_what_nobody_has_imported(site: Site) -> None:
    (site.folder / "lazy.py").write_text("VALUE = 7\n")
    site.add("one", "from found import *\ndef make():\n    import lazy\n    return [Watch(lazy.VALUE)]", "x = one:make")
    (placed,) = site.discover().placed
    assert vars(placed.callback)["what"] == 7
    assert "lazy" in sys.modules


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_training_goes_on_even_where_warnings_are_errors(
    site: Site, action: Literal["error", "ignore"], caplog: pytest.LogCaptureFixture
) -> None:
    site.add("broken", "def make(): raise RuntimeError", "x = broken:make")
    with warnings.catch_warnings(action=action), caplog.at_level(logging.WARNING, "leyden"):
        assert site.discover().placed == []
    logged = [record.getMessage()[:26] for record in caplog.records]
    assert logged == (["The callbacks of broken 1."] if action == "error" else [])


def test_strict_makes_all_of_them_one_error(site: Site) -> None:
    site.add("broken", "def make(): raise RuntimeError('why')", "x = broken:make")
    site.add("other", "def make(): return 3", "y = other:make")
    site.configure("[discovery]\nstrict = true")
    with pytest.raises(MisconfigurationException) as caught:
        site.discover()
    first, second, why = str(caught.value).splitlines()
    assert first.startswith("The callbacks of broken 1.0 are left out: its entry point `x = broken:make`")
    assert second.startswith("The callbacks of other 1.0 are left out: its entry point `y = other:make`")
    assert why == "`strict = true` in the configuration makes this an error."


def test_what_is_run_within_a_time_raises_as_it_would() -> None:
    def fail() -> None:
        raise ValueError("why")

    def stop() -> None:
        raise SystemExit(3)

    with TimeLimit(9) as within:
        assert within(lambda: 5, "five") == 5
        with pytest.raises(ValueError, match=r"^why$"):
            within(fail, "fail")
        with pytest.raises(EndedByItself, match=r"^SystemExit: 3$"):
            within(stop, "stop")
        assert within(lambda: threading.current_thread().name, "six") == "six"


def test_after_one_that_hangs_the_next_has_a_thread_of_its_own(forever: threading.Event) -> None:
    with TimeLimit(0.2) as within:
        with pytest.raises(TimeoutError):
            within(forever.wait, "stuck")
        assert within(lambda: 5, "five") == 5
    forever.set()
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and thread.name in ("stuck", "five"):
            thread.join()  # both end by themselves


def test_no_thread_is_left_where_nothing_hangs(site: Site) -> None:
    before = threading.enumerate()
    site.add("one", "from found import *\ndef make(): return [Watch()]", "x = one:make")
    assert site.names() == ["Watch"]
    assert threading.enumerate() == before


def test_what_a_factory_made_is_not_kept_by_the_thread() -> None:
    class Made:
        """Has weak references."""

    with TimeLimit(9) as within:
        made = within(Made, "made")
        kept = weakref.ref(made)
        within(lambda: None, "next")
        del made
        assert kept() is None
