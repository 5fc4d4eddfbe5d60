"""Trained and averaged weights side by side in a checkpoint, under the keys that Lightning has for them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from leyden_optim.averaged_weights import AveragedWeights

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["Asked", "is_before_end", "put_both"]


@dataclass(slots=True)
class Asked:
    """How far `should_update` was asked, and what that changed where a run may yet go on from before.

    Attributes:
        step: optimizer steps it was asked about.
        epoch: the last epoch likewise, from 0.
        cut_epoch: that epoch, where a limit cut it short: it goes on where the limit is another. Else -1.
        before_epoch_end: the average before that of such an epoch: ``n_averaged`` and ``state_dict``.
    """

    step: int = 0
    epoch: int = -1
    cut_epoch: int = -1
    before_epoch_end: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """This as plain data that a checkpoint may hold."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def put_both(weights: AveragedWeights, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let `checkpoint` have the averaged weights as the module's, and beside them, where it holds a run, the trained.

    A run that begins again before something that an exception cut has, of the copy that was in the module, what it was
    then: statistics of BatchNorm without the batch.
    """
    trained, averaged = weights.copies()
    cut_at = trainer.fit_loop.cut_at
    if cut_at is not None:
        then = averaged if str(cut_at.begun).startswith("validation_") else trained
        then.update({name: weight for name, weight in cut_at.weights.items() if name in then})
    checkpoint["state_dict"] = averaged
    if "loops" in checkpoint:
        checkpoint["current_model_state"] = trained
        checkpoint["averaging_state"] = {"n_averaged": weights.model.n_averaged.clone()}


def is_before_end(checkpoint: dict[str, Any], epoch: int) -> bool:
    """Whether a run goes on within `epoch`, which a limit cut that is no more; the average is behind its end."""
    progress = checkpoint["loops"]["fit_loop"]
    return bool(progress["epoch"] == epoch and progress["pending"] not in ("epoch_end", "epoch"))
