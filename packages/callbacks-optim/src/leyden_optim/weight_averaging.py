"""WeightAveraging: a second, averaged copy of the weights, which validation sees and the end of training keeps."""

from __future__ import annotations

import inspect
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel

from leyden.arguments import refuse
from leyden.callback import Callback
from leyden.rank_zero import rank_zero_info
from leyden_optim.averaged_weights import AveragedWeights
from leyden_optim.averaging_conflicts import conflict_of

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["WeightAveraging"]


class WeightAveraging(Callback):
    """Averages the weights over training, by torch's `AveragedModel`; by default all optimizer steps count the same.

    Override `should_update` to choose the steps or epochs. The first update makes the copy, so that a later start takes
    no memory before. From then on validation runs on the averaged weights: they are in the module from
    `on_validation_start` to `on_validation_end`. When training ends, also early, they stay in the module.

    A checkpoint has the averaged weights in ``state_dict``, so that whoever loads it gets them, with
    ``load_from_checkpoint``, ``trainer.test(ckpt_path=...)`` or by hand; a resumed ``fit`` takes the trained ones from
    ``current_model_state`` and goes on exactly. One of weights only holds the averaged.

    Arguments that types don't explain:
        device: where the averaged copy is kept; None is beside each weight. Another device saves memory on that of the
            module, and each update waits for the transfer.
        use_buffers: average the buffers, such as the statistics of BatchNorm, too; else the copy has those of the
            module at the last update.
        kwargs: for `AveragedModel`: ``avg_fn`` or ``multi_avg_fn``. The latter is far cheaper.

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
        refuse(type(self).__name__, _problems(device, use_buffers, kwargs))
        self.device = device
        self.use_buffers = use_buffers
        self._averaging = kwargs
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._weights: AveragedWeights | None = None
        self._steps = 0  # optimizer steps that should_update was asked about
        self._epoch = -1  # the last epoch likewise
        self._progress: dict[str, Any] | None = None  # of the run that is resumed
        self._before_end: dict[str, Any] | None = None  # the average before that of an epoch which a limit cut short
        self._is_validating = False
        self._is_fitting = False

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Tell whether the average takes in the weights as they are now.

        Asked after each optimizer step with its `step_idx` and at the end of each epoch with its `epoch_idx`, both from
        0; the other one is None. Where a batch had several steps, it is asked about each until one is to count.
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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit averages afresh; one that resumes gets its average after this."""
        if stage == "fit":
            self._start_afresh()
            self._is_fitting = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the module to its device."""
        if self._weights is not None:
            self._weights.settle()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from where the run stands, which may be within a validation."""
        if self._progress is None:
            self._steps, self._epoch = trainer.fit_loop.steps_met, trainer.current_epoch - 1
        else:
            self._steps, self._epoch = self._progress["step"], self._progress["epoch"]
        if self._weights is not None and self._is_validating:
            self._weights.exchange()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look where the weights are: parts of a module may be replaced between epochs."""
        self._before_end = None
        if self._weights is not None:
            self._weights.settle()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update after an optimizer step, where `should_update` says so."""
        steps = trainer.engine.steps
        if steps <= self._steps:  # within an accumulation window, or asked about by the run that is resumed
            return
        first, self._steps = self._steps, steps
        if first + 1 == steps:
            due = self.should_update(step_idx=first)
        else:
            due = any(self.should_update(step_idx=step_idx) for step_idx in range(first, steps))
        if due:
            self._update(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update after an epoch, where `should_update` says so."""
        epoch = trainer.current_epoch
        if epoch > self._epoch:
            self._epoch = epoch
            if self.should_update(epoch_idx=epoch):
                if not trainer.is_last_batch:  # with other limits the run may go on from before this end
                    averaged = {} if self._weights is None else self._weights.copies()[1]
                    weights = {name: deepcopy(weight) for name, weight in averaged.items()}
                    self._before_end = {"n_averaged": self.updates, "state_dict": weights}
                self._update(pl_module)

    def _update(self, pl_module: LightningModule) -> None:
        if self._weights is None:
            self._weights = self._copy_of(pl_module)
        self._weights.update()

    def _copy_of(self, pl_module: LightningModule) -> AveragedWeights:
        return AveragedWeights(pl_module, self.device, use_buffers=self.use_buffers, **self._average_by())

    def _average_by(self) -> dict[str, Any]:
        """Return the arguments of `AveragedModel` that say how it averages."""
        return self._averaging

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the module."""
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
        trained, averaged = weights.copies()
        cut_at = trainer.fit_loop.cut_at
        if cut_at is not None:  # of the copy that was in the module then
            then = averaged if str(cut_at.begun).startswith("validation_") else trained
            then.update({name: weight for name, weight in cut_at.weights.items() if name in then})
        checkpoint["state_dict"] = averaged
        if "loops" in checkpoint:
            checkpoint["current_model_state"] = trained
            checkpoint["averaging_state"] = {"n_averaged": weights.model.n_averaged.clone()}
            checkpoint["averaging_progress"] = {
                "step": self._steps,
                "epoch": self._epoch,
                "before_epoch_end": self._before_end,
            }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take both copies up again; the module has loaded the averaged one by now, which an evaluation keeps."""
        if str(trainer.state.fn) != "fit":
            return
        self._weights = self._progress = None
        trained = checkpoint.get("current_model_state")
        if trained is None:
            return
        updates = int(checkpoint.get("averaging_state", {}).get("n_averaged", 0))
        progress = checkpoint.get("averaging_progress")
        if progress is not None and _is_before_end(checkpoint, progress["epoch"]):
            before = progress["before_epoch_end"]
            if before is not None:
                updates = before["n_averaged"]
                pl_module.load_state_dict(before["state_dict"], strict=False)
            progress = {**progress, "epoch": progress["epoch"] - 1}
        self._progress = progress
        if updates:
            self._weights = self._copy_of(pl_module)
            self._weights.model.n_averaged.fill_(updates)
        pl_module.load_state_dict(trained, strict=pl_module.strict_loading)


def _is_before_end(checkpoint: dict[str, Any], epoch: int) -> bool:
    """Whether a run goes on within `epoch`, whose end is behind the average: a limit was there that is no more."""
    progress = checkpoint["loops"]["fit_loop"]
    return bool(progress["epoch"] == epoch and progress["pending"] not in ("epoch_end", "epoch"))


def _problems(device: Any, use_buffers: Any, averaging: dict[str, Any]) -> list[str]:
    problems = []
    if device is not None:
        try:
            torch.device(device)
        except (RuntimeError, TypeError):
            problems.append(f"device={device!r}: expected a device of torch, such as 'cpu' or 'cuda:1', or None")
    if not isinstance(use_buffers, bool):
        problems.append(f"use_buffers={use_buffers!r}: expected True or False")
    known = [name for name in inspect.signature(AveragedModel).parameters if name.endswith("avg_fn")]
    for name, value in averaging.items():
        if name not in known:
            problems.append(f"{name}={value!r}: there is no such argument; AveragedModel has {', '.join(known)}")
        elif value is not None and not callable(value):
            problems.append(f"{name}={value!r}: expected a function or None")
    if all(averaging.get(name) is not None for name in ("avg_fn", "multi_avg_fn")):
        problems.append("avg_fn and multi_avg_fn: give one of the two")
    return problems
