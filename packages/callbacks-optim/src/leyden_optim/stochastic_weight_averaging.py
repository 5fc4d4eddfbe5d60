"""StochasticWeightAveraging: an average of the last epochs' weights, trained at a learning rate of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from leyden.callback import Callback
from leyden.rank_zero import rank_zero_info, rank_zero_warn
from leyden.runtime.shards import as_in
from leyden.state.rng import collect_rng, restore_rng
from leyden_optim.averaged_weights import AveragedWeights
from leyden_optim.averaging_arguments import check_device
from leyden_optim.averaging_checkpoint import put_both
from leyden_optim.averaging_conflicts import conflict_of
from leyden_optim.batch_norm import layers_to_update, update_statistics
from leyden_optim.swa_schedule import SWASchedule

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer
    from leyden.data.sources import TrainSource

__all__ = ["StochasticWeightAveraging"]


class StochasticWeightAveraging(Callback):
    """Averages the weights at the end of each of the last epochs, while the learning rate anneals to `swa_lrs`.

    The averaged weights come into the module when training ends, with BatchNorm statistics that belong to them.

    P. Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018, arXiv:1803.05407.

    Args:
        swa_lrs: the learning rate of the averaged epochs, above 0; a list has one for each parameter group, those of
            several optimizers one after the other.
        swa_epoch_start: the first averaged epoch, counted from 1; a float from 0.0 to 1.0 is a fraction of
            ``max_epochs``, rounded down.
        annealing_epochs: epochs the learning rate takes to `swa_lrs`; 0 is at once.
        annealing_strategy: along a cosine (``"cos"``) or a line (``"linear"``).
        avg_fn: gets an averaged tensor, the module's, and the number of models averaged so far; returns the new
            average. None is the mean.
        device: where the average is kept, by default on the CPU; None is beside the weights. One that is not there is
            an error before training.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; when fit begins, where the trainer or
            the module leaves no epoch or no learning rate to it.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> swa = StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=3, annealing_epochs=2)
        >>> trainer = Trainer(max_epochs=5, logger=False, callbacks=[swa], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> trainer.current_epoch, swa.updates
        (5, 3)
    """

    runs_after = ("BaseFinetuning",)  # which adds parameter groups

    def __init__(
        self,
        swa_lrs: float | Sequence[float],
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: Literal["cos", "linear"] = "cos",
        avg_fn: Callable[[Tensor, Tensor, Tensor | int], Tensor] | None = None,
        device: torch.device | str | None = "cpu",
    ) -> None:
        super().__init__()
        self.schedule = SWASchedule(swa_lrs, swa_epoch_start, annealing_epochs, annealing_strategy)
        self.schedule.check(type(self).__name__, avg_fn, device)
        self.avg_fn = avg_fn
        self.device = device
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._weights: AveragedWeights | None = None
        self._first_epoch = 0
        self._has_begun = self._is_finished = False
        self._batches = 0  # in the longest averaged epoch
        self._loaded: dict[str, Any] | None = None  # the average of the run that is resumed
        self._pass: dict[str, Any] | None = None  # random numbers and loaders as they were before the last pass

    @property
    def updates(self) -> int:
        """Epochs in the average so far."""
        return 0 if self._weights is None else self._weights.updates

    def conflict_with(self, other: Callback) -> str | None:
        """Refuse a second average of the same weights, and who changes what weights there are."""
        return conflict_of(self, other)

    def update_batch_norm(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the BatchNorm statistics of the averaged weights, which are in the module now.

        The training batches go through ``training_step``, which logs nothing, or under manual optimisation through
        ``forward``; override it for batches that neither fits. Not called where no BatchNorm layer is trained.
        """
        update_statistics(trainer, pl_module, self._batches)

    # -- training ---------------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        return asdict(self.schedule)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A new fit begins afresh; one that resumes gets its average after this."""
        if stage == "fit":
            check_device(type(self).__name__, self.device)
            self._start_afresh()
            self._first_epoch = self.schedule.first_epoch(type(self).__name__, trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at optimizers and schedulers; set up again what the resumed run had, before their states are loaded."""
        self.schedule.check_optimizers(type(self).__name__, trainer)
        if self._has_begun:
            self.schedule.take_over(type(self).__name__, trainer)
        if self._loaded is not None:
            self._weights = self._copy_of(pl_module)
            self._weights.load_state_dict(self._loaded)
            self._loaded = None
        if self._weights is not None:
            self._weights.settle()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training goes on, so that the average is not the last one."""
        self._is_finished, self._pass = False, None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the first of the averaged epochs."""
        if self._has_begun:
            self.schedule.include_new_groups(type(self).__name__, trainer)
        elif trainer.current_epoch >= self._first_epoch:
            self._has_begun = True
            rank_zero_info(f"{type(self).__name__}: the averaged epochs begin with epoch {trainer.current_epoch}.")
            self.schedule.take_over(type(self).__name__, trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the epoch's weights into the average."""
        if not self._has_begun:
            return
        if self._weights is None:
            self._weights = self._copy_of(pl_module)
        self._weights.settle()
        self._weights.update()
        self._batches = max(self._batches, trainer.fit_loop.batches_done)
        if not pl_module.automatic_optimization:
            self.schedule.step(trainer)

    def _copy_of(self, pl_module: LightningModule, updates: int = 0) -> AveragedWeights:
        return AveragedWeights(pl_module, self.device, updates=updates, avg_fn=self.avg_fn)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the averaged weights into the module, and compute their BatchNorm statistics."""
        if self._weights is None:
            rank_zero_warn(
                f"{type(self).__name__} averaged nothing: training ended after {trainer.current_epoch} epoch(s), and "
                f"the first averaged one was to be epoch {self._first_epoch} (from 0). The weights are the trained "
                "ones; lower swa_epoch_start, or train longer."
            )
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do so also where a resumed run has nothing left to train, as when the last pass was cut."""
        self._finish(trainer, pl_module)

    def _finish(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights, source = self._weights, trainer.fit_loop.source
        if weights is None or weights.exchanged:
            return
        if self._is_finished or source is None or not layers_to_update(pl_module):
            weights.exchange()  # there are no statistics to compute, or those of a run that had finished are there
        else:
            with self._repeatable(weights, source):
                weights.exchange()
                self.update_batch_norm(trainer, pl_module)
        self._is_finished = True

    @contextmanager
    def _repeatable(self, weights: AveragedWeights, source: TrainSource) -> Iterator[None]:
        """Draw as the first attempt did, and leave no half of it where this is cut; nothing that is drawn counts.

        The pass draws like an epoch, which a run that goes on with more epochs would not have had.
        """
        if self._pass is None:
            self._pass = {"rng": collect_rng(), "draws": source.draws()}
        draws = self._pass
        buffers = [(buffer, buffer.clone()) for buffer in weights.model.module.buffers()]

        def begin_again() -> None:
            restore_rng(draws["rng"])
            source.set_draws(draws["draws"])

        begin_again()
        try:
            yield
        except BaseException:
            if weights.exchanged:
                weights.exchange()
            for buffer, before in buffers:
                buffer.data.copy_(before)
            raise
        finally:
            begin_again()

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return how far it is and, while epochs are averaged, the average."""
        state: dict[str, Any] = {"has_begun": self._has_begun, "is_finished": self._is_finished}
        if self._weights is not None and not self._is_finished:
            state["average"] = self._weights.state_dict()
        elif self._loaded is not None:  # a run that is cut before on_fit_start has not lost it
            state["average"] = self._loaded
        if self._batches:
            state["batches"] = self._batches
        if self._pass is not None:
            state["pass"] = self._pass
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there; the average is set up when the module is on its device."""
        self._has_begun, self._is_finished = state_dict["has_begun"], state_dict["is_finished"]
        self._loaded, self._pass = state_dict.get("average"), state_dict.get("pass", self._pass)
        self._batches = state_dict.get("batches", 0)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the trained weights beside the averaged ones, once these are in the module."""
        if self._weights is not None and self._weights.exchanged and self._weights.module is pl_module:
            put_both(self._weights, trainer, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the trained weights up again where the run had finished; the module has the averaged ones by now."""
        own = checkpoint.get("callbacks", {}).get(self.state_key)
        if str(trainer.state.fn) != "fit":
            return
        self._weights = self._pass = None
        draws = checkpoint["loops"]["fit_loop"].get("draws")
        if draws and "rng" in checkpoint:  # where the pass begins, if the run was cut right before
            self._pass = {"rng": checkpoint["rng"], "draws": draws[0]}
        if own is None or "current_model_state" not in checkpoint:
            return
        if own.get("is_finished"):  # else it goes on from before its end, with the average of then
            self._weights = self._copy_of(pl_module, int(checkpoint["averaging_state"]["n_averaged"]))
        trained = as_in(pl_module, checkpoint["current_model_state"])
        pl_module.load_state_dict(trained, strict=pl_module.strict_loading)
