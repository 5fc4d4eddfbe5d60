"""EMAWeightAveraging: an exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from leyden.arguments import check_arguments, is_count, is_number
from leyden_optim.weight_averaging import WeightAveraging

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["EMAWeightAveraging"]


class EMAWeightAveraging(WeightAveraging):
    """Averages by ``averaged = decay * averaged + (1 - decay) * weights``, as torch's `get_ema_multi_avg_fn`.

    Otherwise it is a `WeightAveraging`: see there for validation, checkpoints and the end of training.

    Args:
        device: where the averaged copy is kept; None is beside each weight.
        use_buffers: average the buffers, too, as told for `WeightAveraging`.
        decay: how much of the average each update keeps, from 0 (the last weights) to 1 (the first).
        update_every_n_steps: update after each optimizer step whose number, from 0, this divides; at least 1.
        update_starting_at_step: no update before the optimizer step of this number, from 0; None is from the first on.
        update_starting_at_epoch: no update before this epoch, from 0; None is from the first on. With both, both have
            to be reached.

    Raises:
        MisconfigurationException: at once, with the arguments that cannot work.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> ema = EMAWeightAveraging(decay=0.9, update_every_n_steps=2, update_starting_at_epoch=1)
        >>> trainer = Trainer(max_epochs=4, logger=False, callbacks=[ema], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> trainer.global_step, ema.updates
        (8, 3)
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
    ) -> None:
        starts = (
            ("update_starting_at_step", update_starting_at_step),
            ("update_starting_at_epoch", update_starting_at_epoch),
        )
        check_arguments(
            type(self).__name__,
            (
                "device",
                device,
                not isinstance(device, float),
                f"a device or None; a decay is given as decay={device}",
            ),
            ("decay", decay, is_number(decay) and 0 <= decay <= 1, "a number from 0 to 1"),
            ("update_every_n_steps", update_every_n_steps, is_count(update_every_n_steps, least=1), "an int >= 1"),
            *[(name, value, value is None or is_count(value), "an int >= 0 or None") for name, value in starts],
        )
        super().__init__(device, use_buffers)
        self.decay = decay
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch
        self._first_step = update_starting_at_step or 0
        self._has_begun = not update_starting_at_epoch

    def _average_by(self) -> dict[str, Any]:  # made anew each time, since torch's function cannot be pickled
        return {"multi_avg_fn": get_ema_multi_avg_fn(self.decay)}  # type: ignore[no-untyped-call]

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        names = ("use_buffers", "decay", "update_every_n_steps", "update_starting_at_step", "update_starting_at_epoch")
        return {name: getattr(self, name) for name in names}

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Every `update_every_n_steps` steps from where it starts on; never for an epoch."""
        return (
            step_idx is not None
            and self._has_begun
            and step_idx >= self._first_step
            and step_idx % self.update_every_n_steps == 0
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether its epoch has come, in a run that goes on within one."""
        self._has_begun = trainer.current_epoch >= (self.update_starting_at_epoch or 0)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether its epoch has come."""
        self._has_begun = trainer.current_epoch >= (self.update_starting_at_epoch or 0)
        super().on_train_epoch_start(trainer, pl_module)
