"""What a line of a `RichProgressBar` is made of. Imported when there is something to draw."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from leyden_monitoring.display import Stretch, format_rate

if TYPE_CHECKING:
    from leyden_monitoring.rich_progress import RichProgressBarTheme

__all__ = ["BatchesColumn", "DescriptionColumn", "MetricsColumn", "RateColumn", "TimeColumn", "default_columns"]


def default_columns(theme: RichProgressBarTheme) -> list[ProgressColumn]:
    """Return text, bar, batches, times, rate and metrics in the styles of `theme`."""
    bar = BarColumn(
        bar_width=None,  # what the others leave free
        complete_style=theme.progress_bar,
        finished_style=theme.progress_bar_finished,
        pulse_style=theme.progress_bar_pulse,
        table_column=Column(ratio=1, min_width=4),
    )
    return [
        DescriptionColumn(theme.description),
        bar,
        BatchesColumn(theme.batch_progress),
        TimeColumn(theme.time),
        RateColumn(theme.processing_speed),
        MetricsColumn(theme.metrics, theme.metrics_text_delimiter),
    ]


class _Styled(ProgressColumn):
    def __init__(self, style: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.style = style

    def text(self, task: Task) -> str:
        """What the column shows of a task."""
        raise NotImplementedError

    def render(self, task: Task) -> Text:
        return Text(self.text(task), style=self.style)


class DescriptionColumn(_Styled):
    """The epoch, or the evaluation."""

    def text(self, task: Task) -> str:
        return task.description


class BatchesColumn(_Styled):
    """Batches done, of how many."""

    def text(self, task: Task) -> str:
        total = "?" if task.total is None else f"{task.total:.0f}"
        return f"{task.completed:.0f}/{total}"


class TimeColumn(_Styled):
    """Time gone by, and left at the rate since this process began."""

    def text(self, task: Task) -> str:
        stretch: Stretch = task.fields["stretch"]
        elapsed_s, done = _elapsed_s(task), task.completed - stretch.initial
        if task.total is None:
            return _clock(elapsed_s)
        left = _clock(elapsed_s / done * (task.total - task.completed)) if done else "-:--:--"
        return f"{_clock(elapsed_s)} < {left}"


class RateColumn(_Styled):
    """Batches a second since this process began."""

    def text(self, task: Task) -> str:
        stretch: Stretch = task.fields["stretch"]
        return format_rate(int(task.completed) - stretch.initial, _elapsed_s(task))


class MetricsColumn(_Styled):
    """The metrics, on more lines where they do not fit on one."""

    def __init__(self, style: str, delimiter: str) -> None:
        super().__init__(style)
        self._table_column = Column(overflow="fold")
        self.delimiter = delimiter

    def text(self, task: Task) -> str:
        return self.delimiter.join(f"{name}={value}" for name, value in task.fields["metrics"].items())


def _elapsed_s(task: Task) -> float:
    return task.elapsed or 0.0


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
