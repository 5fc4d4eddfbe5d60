"""Draws with tqdm. Imported when there is something to draw, for tqdm takes its time to import."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from leyden_monitoring.above_bars import DisplayBelowText, drawn_on
from leyden_monitoring.display import Stage, Stretch, running_in_notebook, terminal_size

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
    stream = drawn_on()
    if running_in_notebook(with_widgets=True):
        from tqdm.notebook import tqdm as bar_class
    else:
        columns, rows = terminal_size(stream)
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


class TQDMDisplay(DisplayBelowText):
    """The bars of a `TQDMProgressBar`, by stage; a `Display`."""

    interval_s = 0.1
    redraws = True

    def __init__(self, owner: TQDMProgressBar) -> None:
        super().__init__()
        self._owner = owner
        self.bars: dict[Stage, tqdm[Any]] = {}

    def begin(self, stretch: Stretch) -> None:
        stage = stretch.stage
        if stage == "train" and self._owner.leave and stage in self.bars:
            self.bars.pop(stage).close()
        make, default_text = self._makers()[stage]
        if stage in self.bars:
            self.bars[stage].reset()
        else:
            self.bars[stage] = make()
        bar = self.bars[stage]
        bar.initial = bar.n = stretch.initial
        bar.start_t -= stretch.elapsed_s()
        bar.total = None if math.isinf(stretch.total) else stretch.total
        if bar.total is None and isinstance(bar, _TerminalBar):
            bar.bar_format = (bar.bar_format or "").replace("<{remaining}", "")  # tqdm would say 00:00
        # A text that an override of `init_*_tqdm` put there stays.
        if stage == "train" or bar.desc.removesuffix(": ") == default_text:
            bar.set_description(stretch.text, refresh=False)
        bar.refresh()

    def show(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        bar: Any = self.bars[stage]
        bar.n = done
        bar.set_postfix_str(", ".join(f"{name}={value}" for name, value in metrics.items()), refresh=False)
        if isinstance(bar, _TerminalBar):
            bar.ncols, bar.nrows = terminal_size(bar.fp)
        bar.refresh()
        if bar.miniters == math.inf:  # how tqdm notes that it could not write, and says nothing
            raise OSError("the output was closed")

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

    def _hidden(self) -> AbstractContextManager[Any]:
        # Of standard output, wherever the text goes to: standard error is the same terminal. Bars of the user's too.
        return tqdm.external_write_mode(file=drawn_on())

    def _makers(self) -> dict[Stage, tuple[Any, str]]:
        owner = self._owner
        return {
            "train": (owner.init_train_tqdm, owner.train_description),
            "sanity": (owner.init_sanity_tqdm, owner.sanity_check_description),
            "validate": (owner.init_validation_tqdm, owner.validation_description),
            "test": (owner.init_test_tqdm, owner.test_description),
            "predict": (owner.init_predict_tqdm, owner.predict_description),
        }
