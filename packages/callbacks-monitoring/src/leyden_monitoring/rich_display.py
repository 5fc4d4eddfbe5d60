"""Draws with rich. Imported when there is something to draw, for rich takes its time to import."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from threading import RLock
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live_render import LiveRender
from rich.progress import Progress, TaskID
from rich.table import Table

from leyden_monitoring.above_bars import DisplayBelowText, drawn_on
from leyden_monitoring.display import Stage, Stretch, terminal_size

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden_monitoring.rich_progress import RichProgressBar

__all__ = ["RichDisplay", "Tasks"]


class Tasks:
    """The tasks of rich behind the bars, by stage; nothing here draws."""

    def __init__(self, owner: RichProgressBar, trainer: Trainer, console: Console) -> None:
        # Never started: it would draw in a thread of its own and put itself in the place of the outputs.
        self._progress = Progress(*owner.configure_columns(trainer), console=console, auto_refresh=False, expand=True)
        self._ids: dict[Stage, TaskID] = {}

    def __contains__(self, stage: Stage) -> bool:
        return stage in self._ids

    def begin(self, stretch: Stretch) -> None:
        """Add the stage's task, or start it over."""
        if stretch.stage not in self._ids:
            self._ids[stretch.stage] = self._progress.add_task(stretch.text)
        task_id = self._ids[stretch.stage]
        self._progress.reset(
            task_id,
            description=stretch.text,
            total=None if math.isinf(stretch.total) else stretch.total,
            completed=stretch.initial,
            stretch=stretch,
            metrics={},
        )
        task = next(task for task in self._progress.tasks if task.id == task_id)
        if math.isinf(stretch.total):
            task.total = None  # `reset` takes None for "as it was"
        if task.start_time is not None:
            task.start_time -= stretch.elapsed_s()

    def update(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        """Set how far the stage is."""
        self._progress.update(self._ids[stage], completed=done, metrics=metrics)

    def remove(self, stage: Stage) -> None:
        """Forget the stage's task."""
        self._progress.remove_task(self._ids.pop(stage))

    def table(self) -> Table:
        """Return the lines to show."""
        return self._progress.make_tasks_table(self._progress.tasks)


class RichDisplay(DisplayBelowText):
    """The lines of a `RichProgressBar` on a terminal; a `Display`.

    rich's own `Live` is not used: it redraws in a thread, and breaks the lines that a program prints.
    """

    interval_s = 0.1
    redraws = True

    def __init__(self, owner: RichProgressBar, trainer: Trainer) -> None:
        self._leave = owner.leave
        settings: dict[str, Any] = {"force_jupyter": False} | owner.console_kwargs
        # The output itself: a console asks for `sys.stderr` anew each time, and would get what stands in for it.
        settings.setdefault("file", sys.stderr if settings.pop("stderr", False) else drawn_on())
        self._console = Console(**settings)
        self._has_size = "width" in settings or "height" in settings
        self._tasks = Tasks(owner, trainer, self._console)
        self._nested: set[Stage] = set()
        self._drawn = LiveRender("", vertical_overflow="crop")
        self._lock = RLock()  # a thread of the program may print while the bars are drawn
        self._cursor_hidden = False
        super().__init__()

    def begin(self, stretch: Stretch) -> None:
        if stretch.stage == "train" and self._leave and "train" in self._tasks:
            self._finish_lines()
        if stretch.nested:
            self._nested.add(stretch.stage)
        self._tasks.begin(stretch)
        self._draw()

    def show(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        self._tasks.update(stage, done, metrics)
        self._draw()

    def end(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        self._tasks.update(stage, done, metrics)
        if stage in self._nested:
            self._nested.discard(stage)
            self._tasks.remove(stage)
        self._draw()
        if stage != "train" and stage in self._tasks:  # that of training goes on in the next epoch
            self._finish_lines()
            self._tasks.remove(stage)

    def close(self) -> None:
        try:
            with self._lock:
                if self._cursor_hidden:
                    self._finish_lines()
                    self._console.show_cursor(True)
                    self._cursor_hidden = False
        finally:
            self._guard.remove()

    def _draw(self) -> None:
        with self._lock, self._console:  # one write
            if not self._cursor_hidden:
                self._cursor_hidden = True
                self._console.show_cursor(False)
            self._console.control(self._drawn.position_cursor())
            self._draw_lines()

    def _draw_lines(self) -> None:
        if not self._has_size:
            self._console.size = terminal_size(self._console.file)  # type: ignore[arg-type]
        self._drawn.set_renderable(self._tasks.table())
        self._console.print(self._drawn, end="")

    def _finish_lines(self) -> None:
        """Leave what is drawn, and draw below it from now on."""
        if self._drawn.renderable:
            self._console.line()
        self._drawn = LiveRender("", vertical_overflow="crop")

    @contextlib.contextmanager
    def _hidden(self) -> Iterator[Any]:
        with self._lock:
            shown = bool(self._drawn.renderable)  # not any more, where a thread waited while the bars were closed
            self._console.control(self._drawn.position_cursor())
            try:
                yield
            finally:
                if shown:
                    self._draw_lines()
