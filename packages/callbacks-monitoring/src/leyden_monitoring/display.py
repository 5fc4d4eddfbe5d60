"""Where progress is shown: what a display must do, and the one for outputs that are no terminal."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from time import monotonic
from typing import Literal, Protocol, TextIO

__all__ = [
    "Display",
    "PlainLines",
    "Stage",
    "Stretch",
    "encodable",
    "format_metric",
    "format_rate",
    "output_is_terminal",
    "running_in_notebook",
    "terminal_size",
]

Stage = Literal["train", "sanity", "validate", "test", "predict"]


def _now() -> float:
    return monotonic()  # looked up when it is called, so that a test can hold the clock


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a bar is for: an epoch, or a loader of an evaluation."""

    stage: Stage
    text: str
    total: int | float
    """Batches, ``inf`` where the number is unknown."""
    initial: int = 0
    """Batches that an earlier process did: the rate is that of this one."""
    nested: bool = False
    """Whether it is an evaluation inside a training."""
    began: float = field(default_factory=_now)
    """By the clock `monotonic`."""

    def elapsed_s(self) -> float:
        """Seconds since it began in this process."""
        return monotonic() - self.began


class Display(Protocol):
    """Shows one bar per stage; `done` counts batches."""

    interval_s: float
    """The least time between two calls of `show`."""

    redraws: bool
    """Whether `show` replaces what was shown, so that it may be called for new metrics alone, or left out."""

    def begin(self, stretch: Stretch) -> None:
        """Show a bar for the stage of `stretch`, which may have begun some time ago."""

    def show(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        """Show how far the stage is."""

    def end(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        """Show the last state of what `begin` started."""

    def close(self) -> None:
        """Give the output back, cursor on a fresh line."""

    def write(self, text: str, file: TextIO) -> None:
        """Write text of the user to `file` without tearing the bars."""


def format_metric(value: object) -> str:
    """Return a value as short text of steady width: ``0.123``, ``1.2e-07``; what is no float as `str` gives it.

    Example:
        >>> format_metric(0.12345), format_metric(1.2e-7), format_metric(3), format_metric("ab12")
        ('0.123', '1.200e-07', '3', 'ab12')
    """
    if not isinstance(value, float):
        return str(value)
    plain = value == 0 or not math.isfinite(value) or 1e-3 <= abs(value) < 1e5
    return f"{value:.3f}" if plain else f"{value:.3e}"


def format_rate(batches: int, seconds: float) -> str:
    """Return the pace as text, by the unit that makes it more than one.

    Example:
        >>> format_rate(30, 4.0), format_rate(1, 4.0), format_rate(0, 4.0)
        ('7.50 it/s', '4.00 s/it', '0.00 it/s')
    """
    rate = batches / seconds if seconds > 0 else 0.0
    return f"{rate:.2f} it/s" if rate >= 1 or rate == 0 else f"{1 / rate:.2f} s/it"


_ASCII_LINES = str.maketrans("┌┬┐├┼┤└┴┘─│", "+++++++++-|")


def encodable(text: str, stream: TextIO | None) -> str:
    """Return `text` with what `stream` cannot encode made ASCII: lines of a table as ``+-|``, else ``?``."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII_LINES).encode(encoding, "replace").decode(encoding)
    return text


def output_is_terminal(stream: TextIO | None) -> bool:
    """Whether a bar can be redrawn in place on `stream`; a closed or missing one is no terminal, nor is a dumb one."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False


def terminal_size(stream: TextIO) -> tuple[int, int]:
    """Return columns, less the last, and rows; a terminal that tells none (containers, ``script``) gets 80 and 24.

    The last column stays free, since some terminals go to the next line when it is written to. The sizes that tqdm and
    rich measure are those of other streams, or take a terminal without size for one on which nothing can be drawn.
    """
    columns = rows = 0
    with contextlib.suppress(OSError, ValueError):
        columns, rows = os.get_terminal_size(stream.fileno())
    fallback = shutil.get_terminal_size()
    return max(1, (columns or fallback.columns) - 1), rows or fallback.lines or 24


def running_in_notebook(*, with_widgets: bool = False) -> bool:
    """Whether a notebook shows the output; `with_widgets`: and ipywidgets is installed."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if type(shell).__name__ != "ZMQInteractiveShell":
        return False
    return not with_widgets or "ipywidgets" in sys.modules or find_spec("ipywidgets") is not None


class PlainLines:
    """One line when an epoch or an evaluation is done, and one a minute meanwhile: for pipes, files and logs of jobs.

    Example:
        >>> lines = PlainLines()
        >>> lines.begin(Stretch("train", "Epoch 0", 8))
        >>> lines.end("train", 8, {"loss": "0.123"})
        Epoch 0: 8/8 batches in ... s, ... it/s, loss=0.123
    """

    interval_s = 60.0
    redraws = False

    def __init__(self) -> None:
        self._running: dict[Stage, Stretch] = {}

    def begin(self, stretch: Stretch) -> None:
        self._running[stretch.stage] = stretch

    def show(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        self._print(self._running[stage], done, metrics)

    def end(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        stretch = self._running.pop(stage)
        if not stretch.nested:  # the epoch's line tells of the validations inside it
            self._print(stretch, done, metrics)

    def close(self) -> None:
        self._running.clear()

    def write(self, text: str, file: TextIO) -> None:
        file.write(text)

    @staticmethod
    def _print(stretch: Stretch, done: int, metrics: Mapping[str, str]) -> None:
        elapsed_s = stretch.elapsed_s()
        of_total = "" if math.isinf(stretch.total) else f"/{stretch.total}"
        count = f"{stretch.text}: {done}{of_total} batches in {elapsed_s:.1f} s"
        rate = format_rate(done - stretch.initial, elapsed_s)
        print(", ".join([count, rate, *(f"{name}={value}" for name, value in metrics.items())]), flush=True)
