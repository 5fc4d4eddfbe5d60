"""Prints what a module is made of before it is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from leyden.arguments import check_arguments, is_count
from leyden.callback import Callback
from leyden.rank_zero import rank_zero_warn
from leyden.seed import isolate_rng
from leyden_monitoring.display import encodable

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer
    from leyden_monitoring.module_table import ModuleTable

__all__ = ["ModelSummary"]


class ModelSummary(Callback):
    """Prints the module's parts with their types, parameters and modes as fit begins, and the totals.

    With ``example_input_array`` on the module also sizes in and out, and the floating point operations of a forward.

    Args:
        max_depth: Levels of modules within modules to list; -1 for all, 0 for none, which prints nothing.

    Example:
        >>> from leyden.testing.models import BoringModule
        >>> print(ModelSummary().describe(BoringModule()))
        ┌───┬───────┬────────┬────────────┬───────┐
        │   │ name  │ type   │ parameters │ mode  │
        ├───┼───────┼────────┼────────────┼───────┤
        │ 0 │ layer │ Linear │ 10         │ train │
        └───┴───────┴────────┴────────────┴───────┘
              10  trainable parameters
               0  frozen parameters
              10  parameters in all, 0.000 MB
               1  modules in train mode, 0 in eval mode
    """

    role: ClassVar[str | None] = "model_summary"

    def __init__(self, max_depth: int = 1) -> None:
        super().__init__()
        check_arguments(
            type(self).__name__, ("max_depth", max_depth, is_count(max_depth, least=-1), "a number of levels >= -1")
        )
        self.max_depth = max_depth

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """Return nothing to compare, where a forward of the example input needs the shards of all processes."""
        example = getattr(trainer.lightning_module, "example_input_array", None)
        return {} if trainer.strategy.shards_weights and example is not None and self.max_depth else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A forward of weights in shards needs the parts of all processes.
        if self.max_depth == 0 or not (trainer.is_global_zero or trainer.strategy.shards_weights):
            return
        table = self.describe(pl_module)
        if not trainer.is_global_zero:
            return
        try:
            with isolate_rng():  # the import of rich draws a random number
                text = encodable(self.text(table), sys.stdout)
            trainer.print(text)
        except (OSError, ValueError) as error:  # an output that is full or closed
            rank_zero_warn(f"The model summary could not be printed: {type(error).__name__}: {error}")

    def text(self, table: ModuleTable) -> str:
        """Return what is printed of `table`."""
        return str(table)

    def describe(self, pl_module: LightningModule) -> ModuleTable:
        """Return the table that is printed; an example input that does not fit is a warning, and leaves sizes out."""
        from leyden_monitoring.module_table import describe_module

        example = getattr(pl_module, "example_input_array", None)
        try:
            return describe_module(pl_module, self.max_depth, example)
        except Exception as error:  # the forward of the user's module; training must not depend on it
            rank_zero_warn(
                f"The model summary has no sizes: running {type(pl_module).__name__}.example_input_array failed with "
                f"{type(error).__name__}: {error}. Mend example_input_array, or set it to None."
            )
            return describe_module(pl_module, self.max_depth)
