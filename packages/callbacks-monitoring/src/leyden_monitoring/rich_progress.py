"""The progress bar made of rich's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from leyden.arguments import check_arguments
from leyden.errors import MisconfigurationException
from leyden.seed import isolate_rng
from leyden_monitoring.display import Display, running_in_notebook
from leyden_monitoring.live_progress import LiveProgressBar

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from leyden import Trainer

__all__ = ["RichProgressBar", "RichProgressBarTheme"]


@dataclass(frozen=True)
class RichProgressBarTheme:
    """The styles of a `RichProgressBar`, in rich's words: ``"bold green"``, ``"#6206E0"``, ``""`` for the terminal's.

    Attributes:
        description: What stands before the bar.
        progress_bar: The part that is done, while there is more to do.
        progress_bar_finished: The whole bar when all is done.
        progress_bar_pulse: The moving bar where the number of batches is unknown.
        batch_progress: Batches done and in all.
        time: Time gone by and left.
        processing_speed: Batches a second.
        metrics: The metrics.
        metrics_text_delimiter: What stands between two metrics.
        metrics_format: How a float is written, as ``".3f"``; None for ``0.123`` and, where that would lose digits or
            take many, ``1.230e-07``.

    Example:
        >>> RichProgressBarTheme(progress_bar="green").progress_bar_finished
        '#6206E0'
        >>> RichProgressBarTheme(time="dimm")
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: RichProgressBarTheme(time='dimm'): expected a style of rich...
    """

    description: str = ""
    progress_bar: str = "#6206E0"
    progress_bar_finished: str = "#6206E0"
    progress_bar_pulse: str = "#6206E0"
    batch_progress: str = ""
    time: str = "dim"
    processing_speed: str = "dim underline"
    metrics: str = "italic"
    metrics_text_delimiter: str = " "
    metrics_format: str | None = None

    def __post_init__(self) -> None:
        styles = [field.name for field in fields(self) if not field.name.startswith("metrics_")]
        # Those of the class are right, and rich takes its time to import.
        changed = [name for name in styles if getattr(self, name) != getattr(type(self), name)]
        with isolate_rng():  # which its import draws from
            checks = [(name, getattr(self, name), _is_style(getattr(self, name)), _STYLE) for name in changed]
        delimiter, form = self.metrics_text_delimiter, self.metrics_format
        check_arguments(
            type(self).__name__,
            *checks,
            ("metrics_text_delimiter", delimiter, isinstance(delimiter, str), "a text"),
            ("metrics_format", form, _formats_floats(form), "a format of a float such as '.3f', or None"),
        )


_STYLE = "a style of rich, such as 'bold green', '#6206E0' or ''"


def _is_style(value: object) -> bool:
    from rich.errors import StyleSyntaxError
    from rich.style import Style

    try:
        return isinstance(value, str) and Style.parse(value) is not None
    except StyleSyntaxError:
        return False


def _formats_floats(form: object) -> bool:
    try:
        return form is None or (isinstance(form, str) and bool(format(0.5, form)))
    except ValueError:
        return False


_THEME = RichProgressBarTheme()


class RichProgressBar(LiveProgressBar):
    """Shows each epoch's batches, time, rate and metrics by rich; validations in a bar below.

    It redraws at most ten times a second. Where the output is no terminal (a pipe, a file, a job's log) it writes one
    plain line an epoch. To change what stands beside the bar, override `configure_columns`; to change metrics,
    `get_metrics`.

    Args:
        refresh_rate: Draw at most every this many batches; 0 switches the bar off.
        leave: Leave each epoch's bar on the screen instead of starting over in its place.
        theme: The styles of its parts.
        console_kwargs: Arguments for ``rich.console.Console``, such as ``{"stderr": True}``.

    Example:
        >>> bar = RichProgressBar(refresh_rate=10, theme=RichProgressBarTheme(progress_bar="green"))
        >>> bar.theme.progress_bar
        'green'
        >>> RichProgressBar(console_kwargs={"colour": False})
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: RichProgressBar(console_kwargs={'colour': False}) cannot be given...
    """

    def __init__(
        self,
        refresh_rate: int = 1,
        leave: bool = False,
        theme: RichProgressBarTheme = _THEME,
        console_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_arguments(
            type(self).__name__,
            *self.checks(refresh_rate, leave),
            ("theme", theme, isinstance(theme, RichProgressBarTheme), "a RichProgressBarTheme"),
            ("console_kwargs", console_kwargs, _is_mapping_of_names(console_kwargs), "a dict by argument names"),
        )
        super().__init__(refresh_rate, leave)
        self.theme = theme
        self.console_kwargs = dict(console_kwargs or {})
        if self.console_kwargs:
            with isolate_rng():
                self._check_console()

    def _check_console(self) -> None:
        from rich.console import Console

        try:
            Console(**self.console_kwargs)
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(
                f"{type(self).__name__}(console_kwargs={self.console_kwargs!r}) cannot be given to "
                f"rich.console.Console: {error}"
            ) from error

    def can_redraw(self) -> bool:
        if running_in_notebook():
            return True
        if not self.console_kwargs:
            return super().can_redraw()
        from rich.console import Console

        console = Console(**self.console_kwargs)
        return console.is_terminal and not console.is_dumb_terminal

    def make_display(self) -> Display:
        if running_in_notebook():
            from leyden_monitoring.rich_notebook import RichNotebookDisplay

            return RichNotebookDisplay(self, self.trainer)
        from leyden_monitoring.rich_display import RichDisplay

        return RichDisplay(self, self.trainer)

    def format_metric(self, value: object) -> str:
        form = self.theme.metrics_format
        return format(value, form) if form is not None and isinstance(value, float) else super().format_metric(value)

    def configure_columns(self, trainer: Trainer) -> Sequence[ProgressColumn]:
        """Return what a line is made of, from left to right: columns of ``rich.progress``.

        A column gets a task whose ``fields`` hold ``metrics``, the texts of the metrics by name.
        """
        from leyden_monitoring.rich_columns import default_columns

        return default_columns(self.theme)


def _is_mapping_of_names(value: object) -> bool:
    return value is None or (isinstance(value, Mapping) and all(isinstance(name, str) for name in value))
