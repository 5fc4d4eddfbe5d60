"""Where progress is shown: what a display must do, and the one for outputs that are no terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Literal, Protocol, TextIO

__all__ = ["Display", "PlainLines", "Stage", "format_metric", "output_is_terminal", "running_in_notebook"]

Stage = Literal["train", "sanity", "validate", "test", "predict"]


class Display(Protocol):
    """Shows one bar per stage. `done` and `total` count batches; `total` is ``inf`` where it is unknown."""

    interval_s: float
    """The least time between two calls of `show`."""

    redraws: bool
    """Whether `show` replaces what was shown, so that it may be called for new metrics alone."""

    def begin(self, stage: Stage, text: str, total: int | float, *, nested: bool) -> None:
        """Start at zero: an epoch, or a loader of an evaluation; `nested` inside a training."""

    def rebase(self, stage: Stage, done: int) -> None:
        """Take `done` batches as done by an earlier process: the rate is that of this one."""

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


def output_is_terminal(stream: TextIO | None) -> bool:
    """Whether a bar can be redrawn in place on `stream`; a closed or missing one is no terminal."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):
        return False


def running_in_notebook() -> bool:
    """Whether a notebook with widgets shows the output."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if type(shell).__name__ != "ZMQInteractiveShell":
        return False
    from importlib.util import find_spec

    return find_spec("ipywidgets") is not None


class PlainLines:
    """One line when an epoch or an evaluation is done, and one a minute meanwhile: for pipes, files and logs of jobs.

    Example:
        >>> lines = PlainLines()
        >>> lines.begin("train", "Epoch 0", 8, nested=False)
        >>> lines.end("train", 8, {"loss": "0.123"})
        Epoch 0: 8/8 batches in ... s, ... it/s, loss=0.123
    """

    interval_s = 60.0
    redraws = False

    def __init__(self) -> None:
        self._running: dict[Stage, _Running] = {}

    def begin(self, stage: Stage, text: str, total: int | float, *, nested: bool) -> None:
        self._running[stage] = _Running(text, total, nested)

    def rebase(self, stage: Stage, done: int) -> None:
        self._running[stage].initial = done

    def show(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        self._print(self._running[stage].line(done, metrics))

    def end(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        running = self._running.pop(stage)
        if not running.nested:  # the epoch's line tells of the validations inside it
            self._print(running.line(done, metrics))

    def close(self) -> None:
        self._running.clear()

    def write(self, text: str, file: TextIO) -> None:
        file.write(text)

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stdout, flush=True)


class _Running:
    def __init__(self, text: str, total: int | float, nested: bool) -> None:
        self.text, self.total, self.nested = text, total, nested
        self.initial = 0
        self.began = monotonic()

    def line(self, done: int, metrics: Mapping[str, str]) -> str:
        elapsed_s = monotonic() - self.began
        of_total = "" if math.isinf(self.total) else f"/{self.total}"
        rate = (done - self.initial) / elapsed_s if elapsed_s > 0 else 0.0
        speed = f"{rate:.2f} it/s" if rate >= 1 or rate == 0 else f"{1 / rate:.2f} s/it"
        shown = [f"{name}={value}" for name, value in metrics.items()]
        return ", ".join([f"{self.text}: {done}{of_total} batches in {elapsed_s:.1f} s", speed, *shown])
