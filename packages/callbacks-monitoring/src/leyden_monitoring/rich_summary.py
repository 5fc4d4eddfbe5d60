"""The model summary as a table of rich."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from leyden_monitoring.display import output_is_terminal, terminal_size
from leyden_monitoring.model_summary import ModelSummary

if TYPE_CHECKING:
    from rich.console import RenderableType

    from leyden_monitoring.module_table import ModuleTable

__all__ = ["RichModelSummary"]

_UNLIMITED = 1_000_000

# Of the columns by their names; the others are as the terminal writes text.
_STYLES = {
    "": "dim",
    "name": "bold",
    "type": "cyan",
    "parameters": "magenta",
    "mode": "green",
    "in": "dim",
    "out": "dim",
}


class RichModelSummary(ModelSummary):
    """Prints the module's parts, as `ModelSummary` does, in the colours of rich and within the terminal's width.

    Args:
        max_depth: Levels of modules within modules to list; -1 for all, 0 for none, which prints nothing.

    Example:
        >>> from leyden.testing.models import BoringModule
        >>> summary = RichModelSummary()
        >>> print(summary.text(summary.describe(BoringModule())))
        ┏━━━┳━━━━━━━┳━━━━━━━━┳━━━━━━━━━━━━┳━━━━━━━┓
        ┃   ┃ name  ┃ type   ┃ parameters ┃ mode  ┃
        ┡━━━╇━━━━━━━╇━━━━━━━━╇━━━━━━━━━━━━╇━━━━━━━┩
        │ 0 │ layer │ Linear │ 10         │ train │
        └───┴───────┴────────┴────────────┴───────┘
              10  trainable parameters
               0  frozen parameters
              10  parameters in all, 0.000 MB
               1  modules in train mode, 0 in eval mode
    """

    def text(self, table: ModuleTable) -> str:
        from rich.console import Console

        out = sys.stdout
        console = Console(file=out, force_jupyter=False)
        lines = _lines(table)
        # A log has no width that a table should be folded to; rich would take 80 columns for it.
        console.width = terminal_size(out)[0] if output_is_terminal(out) else _UNLIMITED
        console.width = min(console.width, console.measure(lines).maximum)
        with console.capture() as captured:
            console.print(lines)
        return captured.get().removesuffix("\n")


def _lines(table: ModuleTable) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    drawn = Table(header_style="bold")
    for name in table.headers():
        drawn.add_column(name, style=_STYLES[name], overflow="fold")
    for row in table.rows():
        drawn.add_row(*(Text(str(cell)) for cell in row))  # Text: a name may have brackets, which are markup
    totals = [Text.assemble((f"{number:>8}", "bold"), f"  {what}") for number, what in table.totals()]
    return Group(*([drawn] if table.parts else []), *totals)
