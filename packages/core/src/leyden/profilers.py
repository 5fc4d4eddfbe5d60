"""Where the time of a run goes: per hook and callback, per function, or per kernel.

A profiler wraps calls when the plan and the loops are compiled. One that is off wraps nothing and costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from leyden.errors import MisconfigurationException, did_you_mean
from leyden.rank_zero import rank_zero_only
from leyden.tables import render_table

if TYPE_CHECKING:
    import cProfile

    from torch.profiler import profile as TorchProfile

__all__ = ["AdvancedProfiler", "Profiler", "PyTorchProfiler", "SimpleProfiler", "make_profiler"]

T = TypeVar("T")
Call = Callable[..., Any]


class Profiler:
    """Base of profilers: override `start`, `stop` and `summary` to measure something else.

    Args:
        dirpath: folder for the report; without it the report is printed.
        filename: of the report, without ending; the kind of profiler when only `dirpath` is given.

    Example:
        >>> class Counting(Profiler):
        ...     count = 0
        ...
        ...     def start(self, action_name):
        ...         self.count += 1
        >>> profiler = Counting()
        >>> with profiler.profile("load"):
        ...     pass
        >>> profiler.count
        1
    """

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None) -> None:
        self.dirpath = dirpath
        self.filename = filename

    def start(self, action_name: str) -> None:
        """Begin an action."""

    def stop(self, action_name: str) -> None:
        """End an action."""

    @contextmanager
    def profile(self, action_name: str) -> Iterator[str]:
        """Measure a block of your own: ``with self.trainer.profiler.profile("augment"): ...``."""
        self.start(action_name)
        try:
            yield action_name
        finally:
            self.stop(action_name)

    def summary(self) -> str:
        """Return the report, "" for none."""
        return ""

    def describe(self) -> None:
        """Print the report, or write it to `dirpath`; once a run, in the first process."""
        report = self.summary()
        if not report or rank_zero_only.rank:
            return
        if self.dirpath is None and self.filename is None:
            print(report)
            return
        folder = Path(self.dirpath or ".")
        folder.mkdir(parents=True, exist_ok=True)
        name = self.filename or type(self).__name__
        (folder / f"{name}.txt").write_text(report + "\n", encoding="utf-8")

    def wrap(self, owner: object, hook: str, call: Call) -> Call:
        """Return `call`, the hook of a callback or of the module, measured; the plan asks when it is compiled."""
        return self.wrap_action(f"{type(owner).__name__}.{hook}", call)

    def wrap_action(self, action_name: str, call: Call) -> Call:
        """Return `call` measured under `action_name`."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            self.start(action_name)
            try:
                return call(*args, **kwargs)
            finally:
                self.stop(action_name)

        return measured

    def wrap_iterator(self, action_name: str, iterable: Iterable[T]) -> Iterator[T]:
        """Return an iterator over `iterable` of which every step is measured."""
        iterator = iter(iterable)
        advance = self.wrap_action(action_name, lambda: next(iterator, _END))
        while (item := advance()) is not _END:
            yield item


_END: Any = object()


class SimpleProfiler(Profiler):
    """Seconds per hook or action, and per callback; costs half a microsecond per measured call.

    A hook counts its own time, an action (``training_step``, ``backward``, ``optimizer_step``,
    ``next(train_dataloader)``) that of the hooks called within it too.

    Example:
        >>> profiler = SimpleProfiler()
        >>> load = profiler.wrap_action("load", lambda: 42)
        >>> load()
        42
        >>> [(owner, hook, calls) for (owner, hook), (calls, seconds) in profiler.recorded.items()]
        [('', 'load', 1)]
    """

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None) -> None:
        super().__init__(dirpath, filename)
        self.recorded: dict[tuple[str, str], list[Any]] = {}
        self._running: dict[str, float] = {}
        self._since = time.perf_counter()

    def start(self, action_name: str) -> None:
        if action_name in self._running:
            raise ValueError(f"The action {action_name!r} was started already; stop it first.")
        self._running[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        end = time.perf_counter()
        if action_name not in self._running:
            raise ValueError(f"The action {action_name!r} was stopped but never started.")
        entry = self._entry("", action_name)
        entry[0] += 1
        entry[1] += end - self._running.pop(action_name)

    def wrap(self, owner: object, hook: str, call: Call) -> Call:
        return self._timed(self._entry(type(owner).__name__, hook), call)

    def wrap_action(self, action_name: str, call: Call) -> Call:
        return self._timed(self._entry("", action_name), call)

    def _entry(self, owner: str, action: str) -> list[Any]:
        return self.recorded.setdefault((owner, action), [0, 0.0])

    def _timed(self, entry: list[Any], call: Call) -> Call:
        clock = time.perf_counter

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = clock()
            try:
                return call(*args, **kwargs)
            finally:
                entry[1] += clock() - begin
                entry[0] += 1

        return timed

    def summary(self) -> str:
        """Return two tables, largest first: per hook or action, and per callback (or module) and hook."""
        called = {key: entry for key, entry in self.recorded.items() if entry[0]}
        by_action: dict[str, list[Any]] = {}
        for (_, action), (calls, seconds) in called.items():
            total = by_action.setdefault(action, [0, 0.0])
            total[0] += calls
            total[1] += seconds
        elapsed = time.perf_counter() - self._since
        tables = [_time_table(["hook or action"], [((k,), *v) for k, v in by_action.items()], elapsed)]
        owned = [(key, *entry) for key, entry in called.items() if key[0]]
        if owned:
            tables.append(_time_table(["callback or module", "hook"], owned, elapsed))
        return "\n".join([f"Profile of {elapsed:.3f} s", *tables])

    def describe(self) -> None:
        super().describe()
        for entry in self.recorded.values():  # emptied in place: what is wrapped holds on to them
            entry[:] = [0, 0.0]
        self._since = time.perf_counter()


def _time_table(first: list[str], rows: list[tuple[Any, int, float]], elapsed: float) -> str:
    rows = sorted(rows, key=lambda row: row[2], reverse=True)
    lines = [[*key, calls, s / calls, s, f"{s / elapsed:.1%}"] for key, calls, s in rows]
    return render_table([*first, "calls", "mean s", "total s", "of run"], lines)


class AdvancedProfiler(Profiler):
    """Time per Python function within each hook and action, by `cProfile`; slows a run down.

    Args:
        line_count_restriction: how much of each action's functions to show: a number of lines or a fraction.
        dump_stats: also write ``<action>.prof`` files to `dirpath`, for viewers such as snakeviz.

    Example:
        >>> profiler = AdvancedProfiler(line_count_restriction=5)
        >>> with profiler.profile("sort"):
        ...     _ = sorted(range(10))
        >>> "sort" in profiler.summary() and "sorted" in profiler.summary()
        True
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        line_count_restriction: float = 1.0,
        dump_stats: bool = False,
    ) -> None:
        super().__init__(dirpath, filename)
        if dump_stats and dirpath is None:
            raise MisconfigurationException("AdvancedProfiler(dump_stats=True) needs a dirpath to write the files to.")
        self.line_count_restriction = line_count_restriction
        self.dump_stats = dump_stats
        self.profiled: dict[str, cProfile.Profile] = {}
        self._stack: list[str] = []

    def start(self, action_name: str) -> None:
        import cProfile

        if self._stack:  # only one can be on: an action within another counts as its own
            self.profiled[self._stack[-1]].disable()
        self._stack.append(action_name)
        self.profiled.setdefault(action_name, cProfile.Profile()).enable()

    def stop(self, action_name: str) -> None:
        if not self._stack or self._stack[-1] != action_name:
            raise ValueError(f"The action {action_name!r} was stopped, but running is {self._stack[-1:] or 'none'}.")
        self.profiled[self._stack.pop()].disable()
        if self._stack:
            self.profiled[self._stack[-1]].enable()

    def summary(self) -> str:
        """Return each action's functions, those that took longest first."""
        import io
        import pstats

        parts = []
        for name, profile in self.profiled.items():
            if not profile.getstats():
                continue
            text = io.StringIO()
            stats = pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative")
            stats.print_stats(self.line_count_restriction)
            parts.append(f"Profile of {name}\n{text.getvalue().strip()}")
        return "\n\n".join(parts)

    def describe(self) -> None:
        super().describe()
        if self.dump_stats and not rank_zero_only.rank:
            for name, profile in self.profiled.items():
                safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
                profile.dump_stats(Path(self.dirpath or ".") / f"{safe}.prof")
        self.profiled.clear()


class PyTorchProfiler(Profiler):
    """Time and memory per operator and kernel, by `torch.profiler`, with hooks and actions as named ranges.

    By default one step is left out, one warms up and three are recorded per run; ``schedule=None`` records all.

    Args:
        export_to_chrome: write a trace for chrome://tracing or Perfetto to `dirpath`, where there is one.
        row_limit: lines of the table; -1 for all.
        sort_by_key: column to sort by, such as "cpu_time_total".
        profiler_kwargs: for ``torch.profiler.profile``: activities, schedule, profile_memory, with_stack ...

    Example:
        >>> PyTorchProfiler(row_limit=5, profile_memory=True).row_limit
        5
    """

    STEPS = frozenset({"training_step", "validation_step", "test_step", "predict_step"})

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        export_to_chrome: bool = True,
        row_limit: int = 20,
        sort_by_key: str | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        super().__init__(dirpath, filename)
        self.export_to_chrome = export_to_chrome
        self.row_limit = row_limit
        self.sort_by_key = sort_by_key
        self.profiler_kwargs = profiler_kwargs
        self._profile: TorchProfile | None = None
        self._ranges: dict[str, list[Any]] = {}

    def start(self, action_name: str) -> None:
        from torch.autograd.profiler import record_function

        if self._profile is None:
            self._profile = self._make()
            self._profile.start()
        entered: Any = record_function(action_name)
        entered.__enter__()
        self._ranges.setdefault(action_name, []).append(entered)

    def stop(self, action_name: str) -> None:
        if not self._ranges.get(action_name):
            raise ValueError(f"The action {action_name!r} was stopped but never started.")
        self._ranges[action_name].pop().__exit__(None, None, None)
        if action_name in self.STEPS and self._profile is not None:
            self._profile.step()

    def _make(self) -> TorchProfile:
        import torch.profiler as tp

        schedule = tp.schedule(wait=1, warmup=1, active=3, repeat=1)
        kwargs = {"schedule": schedule, "acc_events": True, **self.profiler_kwargs}
        return tp.profile(**kwargs)

    def summary(self) -> str:
        """Return the table of operators; ends the recording."""
        if self._profile is None:
            return ""
        profile, self._profile = self._profile, None
        profile.stop()
        averages = profile.key_averages()
        if self.export_to_chrome and self.dirpath is not None and averages:
            folder = Path(self.dirpath)
            folder.mkdir(parents=True, exist_ok=True)
            profile.export_chrome_trace(str(folder / f"{self.filename or type(self).__name__}.trace.json"))
        return str(averages.table(sort_by=self.sort_by_key, row_limit=self.row_limit))


def make_profiler(profiler: object) -> Profiler | None:
    """Return what ``Trainer(profiler=...)`` means: a name, a profiler, or ``None`` for none.

    Example:
        >>> type(make_profiler("simple")).__name__
        'SimpleProfiler'
    """
    if profiler is None or isinstance(profiler, Profiler):
        return profiler
    kinds: dict[str, type[Profiler]] = {
        "simple": SimpleProfiler,
        "advanced": AdvancedProfiler,
        "pytorch": PyTorchProfiler,
    }
    if isinstance(profiler, str) and profiler.lower() in kinds:
        return kinds[profiler.lower()]()
    guess = did_you_mean(profiler, kinds) if isinstance(profiler, str) else ""
    raise MisconfigurationException(
        f"Trainer(profiler={profiler!r}): expected 'simple', 'advanced', 'pytorch', a Profiler or None.{guess}"
    )
