"""Shows the lines of a `RichProgressBar` in a notebook, by an output that is replaced; needs no widgets."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any, TextIO
from uuid import uuid4

from rich.console import Console

from leyden_monitoring.display import Stage, Stretch
from leyden_monitoring.rich_display import Tasks

if TYPE_CHECKING:
    from leyden import Trainer
    from leyden_monitoring.rich_progress import RichProgressBar

__all__ = ["RichNotebookDisplay"]

_COLUMNS = 100
_LINES = '<pre style="white-space:pre;overflow-x:auto;line-height:normal">{code}</pre>'


class RichNotebookDisplay:
    """One output per entry point, which each drawing replaces; a `Display`. What is printed stands below."""

    interval_s = 0.1
    redraws = True

    def __init__(self, owner: RichProgressBar, trainer: Trainer) -> None:
        as_drawn: dict[str, Any] = {
            "force_terminal": True,
            "force_jupyter": False,
            "color_system": "truecolor",
            "width": _COLUMNS,
        }
        settings = as_drawn | owner.console_kwargs | {"file": StringIO(), "record": True}
        settings.pop("stderr", None)
        self._console = Console(**settings)
        self._tasks = Tasks(owner, trainer, self._console)
        self._leave = owner.leave
        self._nested: set[Stage] = set()
        self._id = ""

    def begin(self, stretch: Stretch) -> None:
        stays = not stretch.nested and (stretch.stage != "train" or self._leave)
        if stays and stretch.stage in self._tasks:
            self._tasks.remove(stretch.stage)
            self._id = ""
        if stretch.nested:
            self._nested.add(stretch.stage)
        self._tasks.begin(stretch)
        self._show()

    def show(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        self._tasks.update(stage, done, metrics)
        self._show()

    def end(self, stage: Stage, done: int, metrics: Mapping[str, str]) -> None:
        self._tasks.update(stage, done, metrics)
        if stage in self._nested:
            self._nested.discard(stage)
            self._tasks.remove(stage)
        self._show()

    def close(self) -> None:
        self._id = ""

    def write(self, text: str, file: TextIO) -> None:
        file.write(text)

    def _show(self) -> None:
        self._console.print(self._tasks.table())
        data = {
            "text/html": self._console.export_html(inline_styles=True, code_format=_LINES, clear=False),
            "text/plain": self._console.export_text(),
        }
        output: Any = import_module("IPython.display")
        if self._id:
            output.update_display(data, raw=True, display_id=self._id)
        else:
            self._id = uuid4().hex
            output.display(data, raw=True, display_id=self._id)
