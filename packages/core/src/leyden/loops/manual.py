"""What one training batch does under manual optimisation: the step, which drives the optimizers itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.errors import MisconfigurationException
from leyden.loops.steps import leaving_out, training_step_of
from leyden.loops.training_outputs import detached

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["ManualOptimization"]


class ManualOptimization:
    """Runs ``training_step``, which drives optimizers itself.

    Attributes:
        window_open: False; accumulating is the module's matter.
        outputs: what the step returned, detached, for `on_train_batch_end`.
    """

    keeps_gradients = True  # only the module knows whether a later step uses them

    __slots__ = ("_engine", "_journal", "_module", "_step", "_whole_step", "outputs", "window_open")

    def __init__(self, trainer: Trainer) -> None:
        self._journal, self._engine, self._module = trainer.journal, trainer.engine, trainer.lightning_module
        self._step = self._whole_step = training_step_of(trainer)
        self.window_open = False
        self.outputs: dict[str, Any] = {}

    def leave_out(self, batches: Collection[int]) -> None:
        """Let ``training_step`` be called for all batches but those of these indices."""
        self._step = leaving_out(self._whole_step, batches)

    def run(self, batch: Any, batch_idx: int, *, window_ends: bool) -> bool:
        """Train on one batch; return whether any optimizer was stepped."""
        before = self._engine.steps
        self._journal.hook = "training_step"
        output = self._step(batch, batch_idx)
        if output is None:
            self.outputs = {}
        elif isinstance(output, Tensor):
            self.outputs = {"loss": output.detach()}
        elif isinstance(output, Mapping):
            self.outputs = detached(output)
        else:
            raise MisconfigurationException(
                f"{type(self._module).__name__}.training_step returned {output!r:.80} ({type(output).__name__}); under "
                "manual optimisation expected a tensor, a dict or None."
            )
        return self._engine.steps > before
