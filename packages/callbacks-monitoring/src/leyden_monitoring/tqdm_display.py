"""Draws with tqdm. Imported when there is something to draw, for tqdm takes its time to import."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from tqdm import tqdm

from leyden_monitoring.above_bars import AboveBars, OutputGuard
from leyden_monitoring.display import Stage, running_in_notebook

if TYPE_CHECKING:
    from leyden_monitoring.tqdm_progress import TQDMProgressBar

__all__ = ["TQDMDisplay", "new_bar"]


class _TerminalBar(tqdm):  # type: ignore[type-arg]
    # tqdm would start a thread that redraws bars which stall; ours are redrawn by the hooks.
    monitor_interval = 0


def new_bar(text: str, *, position: int, leave: bool, disable: bool, bar_format: str) -> tqdm[Any]:
    """Return a bar of tqdm on standard output, or a widget in a notebook."""
    bar_class: Any = _TerminalBar
    size: dict[str, Any] = {"dynamic_ncols": True}
    stream = _drawn_on()
    if running_in_notebook():
        from tqdm.notebook import tqdm as bar_class
    else:
        columns, rows = _terminal_size(stream)
        size = {"ncols": columns, "nrows": rows}
    bar: tqdm[Any] = bar_class(
        desc=text,
        position=position,
        leave=leave,
        disable=disable,
        bar_format=bar_format,
        file=stream,
        smoothing=0,
        **size,
    )
    return bar


def _drawn_on() -> TextIO:
    return sys.stdout.stream if isinstance(sys.stdout, AboveBars) else sys.stdout


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    """Return columns and rows; a terminal that tells none (containers, ``script``) gets 80 and 24.

    tqdm's own measure takes a terminal without size for one on which nothing can be drawn.
    """
    columns = rows = 0
    with contextlib.suppress(OSError, ValueError):
        columns, rows = os.get_terminal_size(stream.fileno())
    fallback = shutil.get_terminal_size()
    return (columns or fallback.columns) - 1, rows or fallback.lines or 24


class TQDMDisplay:
    """The bars of a `TQDMProgressBar`, by stage; a `Display`."""

    interval_s = 0.1
    redraws = True

    def __init__(self, owner: TQDMProgressBar) -> None:
        self._owner = owner
        self.bars: dict[Stage, tqdm[Any]] = {}
        self._guard = OutputGuard(self._write_lines)

    def begin(self, stage: Stage, text: str, total: int | float, *, nested: bool) -> None:
        if stage == "train" and self._owner.leave and stage in self.bars:
            self.bars.pop(stage).close()
        make, default_text = self._makers()[stage]
        if stage in self.bars:
            self.bars[stage].reset()
        else:
            self.bars[stage] = make()
        bar = self.bars[stage]
        bar.initial = 0
        bar.total = None if math.isinf(total) else total
        if bar.total is None and isinstance(bar, _TerminalBar):
            bar.bar_format = (bar.bar_format or "").replace("<{remaining}", "")  # tqdm would say 00:00
        # A text that an override of `init_*_tqdm` put there stays.
        if stage == "train" or bar.desc.removesuffix(": ") == default_text:
            bar.set_description(text, refresh=False)
        bar.refresh()

    def rebase(self, stage: Stage, done: int) -> None:
        self.bars[stage].initial = done

    def show(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        bar: Any = self.bars[stage]
        bar.n = done
        bar.set_postfix_str(", ".join(f"{name}={value}" for name, value in metrics.items()), refresh=False)
        if isinstance(bar, _TerminalBar):
            bar.ncols, bar.nrows = _terminal_size(bar.fp)
        bar.refresh()

    def end(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        self.show(stage, done, metrics)
        if stage != "train":  # that one goes on in the next epoch
            self.bars.pop(stage).close()

    def close(self) -> None:
        try:
            while self.bars:
                self.bars.popitem()[1].close()
        finally:
            self._guard.remove()

    def write(self, text: str, file: TextIO) -> None:
        if isinstance(file, AboveBars):
            file.write(text)
        else:
            self._write_lines(text, file)

    def _write_lines(self, lines: str, file: TextIO) -> None:
        # Takes away what is drawn on standard output, for standard error is the same terminal, and draws it again.
        with tqdm.external_write_mode(file=_drawn_on()):
            file.write(lines)
            file.flush()

    def _makers(self) -> dict[Stage, tuple[Any, str]]:
        owner = self._owner
        return {
            "train": (owner.init_train_tqdm, owner.train_description),
            "sanity": (owner.init_sanity_tqdm, owner.sanity_check_description),
            "validate": (owner.init_validation_tqdm, owner.validation_description),
            "test": (owner.init_test_tqdm, owner.test_description),
            "predict": (owner.init_predict_tqdm, owner.predict_description),
        }
