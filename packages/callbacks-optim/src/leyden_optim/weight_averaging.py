"""WeightAveraging: a second, averaged copy of the weights, which validation sees and the end of training keeps."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from leyden.arguments import refuse
from leyden.callback import Callback
from leyden.rank_zero import rank_zero_info, rank_zero_warn
from leyden.runtime.shards import as_in
from leyden_optim.averaged_weights import AveragedWeights
from leyden_optim.averaging_arguments import averaging_problems, check_device
from leyden_optim.averaging_checkpoint import Asked, is_before_end, put_both
from leyden_optim.averaging_conflicts import conflict_of

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["WeightAveraging"]


class WeightAveraging(Callback):
    """Averages the weights over training, by torch's `AveragedModel`; by default all optimizer steps count the same.

    Override `should_update` to choose the steps or epochs. From the first update on validation runs on the averaged
    weights, and when training ends they stay in the module.

    Args:
        device: where the averaged copy is kept; None is beside each weight. One that is not there is an error before
            training.
        use_buffers: average the buffers, such as the statistics of BatchNorm, too; else the copy has those of the
            module at the last update. Buffers of integers, such as indices and masks, are always the module's at the
            last update, but for BatchNorm's counts: the average of torch would make another index of one.
        kwargs: for `AveragedModel`: ``avg_fn`` or ``multi_avg_fn``, not both.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; at ``Trainer(...)`` beside a callback
            that it cannot work with.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> class LastEpochs(WeightAveraging):
        ...     def should_update(self, step_idx=None, epoch_idx=None):
        ...         return epoch_idx is not None and epoch_idx >= 3
        >>> averaging = LastEpochs()
        >>> trainer = Trainer(max_epochs=5, logger=False, callbacks=[averaging], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> averaging.updates
        2
    """

    changes_saved_weights = True

    def __init__(self, device: torch.device | str | int | None = None, use_buffers: bool = True, **kwargs: Any) -> None:
        super().__init__()
        refuse(type(self).__name__, averaging_problems(device, use_buffers, kwargs))
        self.device = device
        self.use_buffers = use_buffers
        self._averaging = kwargs
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._weights: AveragedWeights | None = None
        self._asked = Asked()
        self._is_asked_on = False  # a run is gone on with that says how far it was asked
        self._is_validating = False
        self._is_fitting = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Tell whether the average takes in the weights as they are now.

        Asked after each optimizer step with its `step_idx` and after the last one of each epoch with its `epoch_idx`,
        both from 0; the other one is None. A validation that ends the epoch comes afterwards. Where a batch had several
        steps, it is asked about each until one is to count.
        """
        return step_idx is not None

    @property
    def updates(self) -> int:
        """Updates made so far."""
        return 0 if self._weights is None else self._weights.updates

    def conflict_with(self, other: Callback) -> str | None:
        """Refuse a second average of the same weights, and who changes what weights there are."""
        return conflict_of(self, other)

    # -- training ---------------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        return {"use_buffers": self.use_buffers, **self._averaging}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit averages afresh; one that resumes gets its average after this."""
        if stage == "fit":
            check_device(type(self).__name__, self.device)
            self._start_afresh()
            self._is_fitting = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module to its device."""
        if self._weights is not None:
            self._weights.settle()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where the run stands, which may be within a validation."""
        if not self._is_asked_on:
            self._asked = Asked(trainer.fit_loop.steps_met, trainer.current_epoch - 1)
        if self._weights is not None and self._is_validating:
            self._weights.exchange()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look where the weights are: parts of a module may be replaced between epochs."""
        self._asked.before_epoch_end = None
        if self._weights is not None:
            self._weights.settle()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after an optimizer step, where `should_update` says so."""
        steps, asked = trainer.engine.steps, self._asked
        if steps > asked.step:  # else within an accumulation window, or asked about by the run that is resumed
            first, asked.step = asked.step, steps
            if first + 1 == steps:
                due = self.should_update(step_idx=first)
            else:
                due = any(self.should_update(step_idx=step_idx) for step_idx in range(first, steps))
            if due:
                self._update(pl_module)
        if trainer.fit_loop.is_last_batch:
            self._end_epoch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update after an epoch whose end could not be foreseen."""
        self._end_epoch(trainer, pl_module)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update after an epoch, where `should_update` says so.

        Where a limit cut it short, it may be gone on with when the limit is another: what was before is kept.
        """
        epoch, is_cut, asked = trainer.current_epoch, not trainer.fit_loop.is_last_batch, self._asked
        if epoch <= asked.epoch:
            return
        asked.epoch, asked.cut_epoch = epoch, epoch if is_cut else -1
        if self.should_update(epoch_idx=epoch):
            if is_cut:
                averaged = {} if self._weights is None else self._weights.copies()[1]
                weights = {name: deepcopy(weight) for name, weight in averaged.items()}
                asked.before_epoch_end = {"n_averaged": self.updates, "state_dict": weights}
            self._update(pl_module)

    def _update(self, pl_module: LightningModule) -> None:
        if self._weights is None:
            self._weights = self._copy_of(pl_module)
        self._weights.update()

    def _copy_of(self, pl_module: LightningModule, updates: int = 0) -> AveragedWeights:
        averaging = {"use_buffers": self.use_buffers, **self._average_by()}
        return AveragedWeights(pl_module, self.device, updates=updates, **averaging)

    def _average_by(self) -> dict[str, Any]:
        """Return the arguments of `AveragedModel` that say how it averages."""
        return self._averaging

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the module."""
        if self._weights is None and not trainer.fast_dev_run:
            rank_zero_warn(
                f"{type(self).__name__} averaged nothing: training ended after {trainer.global_step} optimizer step(s) "
                f"and {trainer.current_epoch} epoch(s), and should_update chose none of them. The weights are the "
                "trained ones; begin earlier, or train longer."
            )
        self._finish()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave them there also where a resumed run had nothing left to train."""
        self._finish()

    def _finish(self) -> None:
        if self._weights is not None and not self._weights.exchanged:
            self._weights.exchange()
            rank_zero_info(
                f"{type(self).__name__}: the module has the weights averaged over {self.updates} update(s) now."
            )
        self._is_fitting = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give a module back its own weights when an exception came while it had the averaged ones."""
        if stage == "fit" and self._is_fitting and self._weights is not None and self._weights.exchanged:
            self._weights.exchange()
        self._is_fitting = False

    # -- validation -------------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate on the averaged weights, once there are any."""
        if self._is_fitting and self._weights is not None:
            self._weights.settle()
            self._is_validating = True
            self._weights.exchange()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on with the others."""
        if self._is_validating and self._weights is not None:
            self._weights.exchange()
        self._is_validating = False

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return whether the run is within a validation on averaged weights; these are beside the module's."""
        return {"is_validating": self._is_validating}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the validation in which the checkpoint was made."""
        self._is_validating = bool(state_dict.get("is_validating", False))  # Lightning validates before it saves

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the averaged weights as the module's, and the trained ones beside them.

        What counts updates is not in this callback's state: hooks that a run repeats after an exception get a state of
        before, but the average of now, and are not to update it twice.
        """
        weights = self._weights
        if weights is None or weights.module is not pl_module:
            return
        put_both(weights, trainer, checkpoint)
        if "loops" in checkpoint:
            checkpoint["averaging_progress"] = self._asked.as_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take both copies up again; the module has loaded the averaged one by now, which an evaluation keeps."""
        if str(trainer.state.fn) != "fit":
            return
        self._weights, self._is_asked_on = None, False
        trained = checkpoint.get("current_model_state")
        if trained is None:
            return
        updates = int(checkpoint.get("averaging_state", {}).get("n_averaged", 0))
        if "averaging_progress" in checkpoint:
            self._asked, self._is_asked_on = Asked(**checkpoint["averaging_progress"]), True
            if is_before_end(checkpoint, self._asked.cut_epoch):
                before = self._asked.before_epoch_end
                if before is not None:
                    updates = before["n_averaged"]
                    pl_module.load_state_dict(as_in(pl_module, before["state_dict"]), strict=False)
                self._asked = Asked(self._asked.step, self._asked.epoch - 1)
        if updates:
            self._weights = self._copy_of(pl_module, updates)
        pl_module.load_state_dict(as_in(pl_module, trained), strict=pl_module.strict_loading)
