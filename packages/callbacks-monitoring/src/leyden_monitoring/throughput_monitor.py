"""Logs how much a run gets done per second, and how much of what the device could do that is."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from leyden.arguments import check_arguments, is_number
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.logging.batch_size import batch_size_of
from leyden.rank_zero import rank_zero_warn
from leyden_monitoring.peak_flops import peak_flops_of
from leyden_monitoring.stage_meter import StageMeter
from leyden_monitoring.throughput import Throughput, check_throughput_arguments

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["ThroughputMonitor"]

_STAGES = ("train", "validate", "test", "predict")
_OF_ENTRY_POINT = {"fit": ("train", "validate")}


class ThroughputMonitor(Callback):
    """Logs batches, samples and items per second of every stage, and model FLOP utilisation, to all loggers.

    ``train/time`` (seconds of training), ``train/batches``, ``train/samples`` and ``train/lengths`` (items) are totals
    of the run, those before a resume with them. ``train/device/batches_per_sec``, ``…/samples_per_sec``,
    ``…/items_per_sec``, ``…/flops_per_sec`` and ``…/mfu`` are of one device, over the last `window_size` batches of
    this process; with several devices the same names without ``device/`` are of all together. ``validate/``, ``test/``
    and ``predict/`` have the same series.

    A batch is what a step gets: a micro-batch under accumulation. It counts when its step has been made, whatever came
    of it. The time of training goes from the first step to the last without the validations in between; loading, other
    callbacks and the saving of checkpoints belong to it, the sanity check does not.

    Logged every `log_every_n_steps` steps of the Trainer with the number of steps as x axis; in other stages every so
    many batches and at the end of the pass, with the number of the stage's batches. Between reports nothing is done but
    counting, and the device is never waited for.

    Floating point operations are known where the module has a ``flops_per_batch``, an attribute or a property that is
    read at every batch; see `leyden.flops.measure_flops`. A plain attribute is that of a training step and used in no
    other stage; a property is asked in every stage and may look at ``self.training``.

    Args:
        batch_size_fn: returns the number of samples of a batch, as an int; without it the first tensor's first
            dimension counts, as for ``self.log``.
        length_fn: returns the number of items (tokens, say) of a batch, as an int.
        window_size: batches that rates are over, or a report's where these are more.
        separator: what stands between the parts of a name.
        available_flops: what one device could do, in operations per second, for ``mfu``; without it the data sheet's
            figure for the device and the precision, and no ``mfu`` where that is not known.

    Attributes:
        metrics: what was reported last of each stage, by the names above; kept without a logger too.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> monitor = ThroughputMonitor(batch_size_fn=len)
        >>> trainer = Trainer(
        ...     max_epochs=3, log_every_n_steps=2, logger=False, callbacks=[monitor], discover_callbacks=False
        ... )
        >>> trainer.fit(BoringModule())
        >>> monitor.metrics["train/batches"], monitor.metrics["train/samples"]
        (6, 12)
        >>> monitor.metrics["train/device/samples_per_sec"] > 0
        True
    """

    def __init__(
        self,
        batch_size_fn: Callable[[Any], int] | None = None,
        length_fn: Callable[[Any], int] | None = None,
        window_size: int = 100,
        separator: str = "/",
        available_flops: float | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_throughput_arguments(owner, available_flops, window_size, separator)
        check_arguments(
            owner,
            ("batch_size_fn", batch_size_fn, batch_size_fn is None or callable(batch_size_fn), "a function or None"),
            ("length_fn", length_fn, length_fn is None or callable(length_fn), "a function or None"),
        )
        self.batch_size_fn, self.length_fn = batch_size_fn, length_fn
        self.window_size, self.separator = window_size, separator
        self.available_flops = available_flops
        self.metrics: dict[str, float] = {}
        self._meters = {stage: self._new_meter(world_size=1) for stage in _STAGES}
        self._every_n_steps = 0

    @staticmethod
    def clock() -> float:
        """Return seconds since some moment; a subclass may have another clock."""
        return time.perf_counter()

    def applies(self, trainer: Trainer) -> bool:
        return bool(trainer.loggers)

    def _new_meter(self, world_size: int) -> StageMeter:
        throughput = Throughput(self.available_flops, world_size, self.window_size, self.separator)
        return StageMeter(throughput, counts_lengths=self.length_fn is not None)

    # -- when stages begin and end ------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Count the stages of this entry point afresh; a resumed run gets its totals after this."""
        self._every_n_steps = trainer.log_every_n_steps or 0
        for name in _OF_ENTRY_POINT.get(stage, (stage,)):
            self._meters[name] = self._new_meter(trainer.world_size)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        goes_on_in_validation = trainer.fit_loop.pending == "validation"
        self._begin("validate" if goes_on_in_validation else "train", trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._meters["train"].stop(self.clock())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._meters["train"].stop(self.clock())
            self._begin("validate", trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._end("validate", trainer)
            if trainer.state.fn == "fit":
                self._begin("train", trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("test", trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end("test", trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin("predict", trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end("predict", trainer)

    def _begin(self, stage: str, trainer: Trainer, pl_module: LightningModule) -> None:
        meter = self._meters[stage]
        if stage == "train" or isinstance(getattr(type(pl_module), "flops_per_batch", None), property):
            meter.flops_of = pl_module
        if self.available_flops is None and meter.flops_of is not None:
            device, precision = trainer.strategy.root_device, trainer.precision
            meter.throughput.available_flops = peak_flops_of(device, precision)
        meter.start(self.clock())

    def _end(self, stage: str, trainer: Trainer) -> None:
        """Report what no report has had: a pass may be shorter than the interval of reports."""
        meter = self._meters[stage]
        if self._every_n_steps and meter.batches > meter.reported_at:
            self._report(stage, trainer, meter.batches)
        meter.stop(self.clock())

    # -- batches ------------------------------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count(self._meters["train"], batch)
        fit, every = trainer.fit_loop, self._every_n_steps
        # All batches of an accumulation window belong to one step: the last of them reports.
        if fit.window_ends and every and (fit.batches_that_stepped + 1) % every == 0:
            self._report("train", trainer, fit.batches_that_stepped)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking:
            self._count_and_report("validate", trainer, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._count_and_report("test", trainer, batch)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._count_and_report("predict", trainer, batch)

    def _count_and_report(self, stage: str, trainer: Trainer, batch: Any) -> None:
        meter, every = self._meters[stage], self._every_n_steps
        self._count(meter, batch)
        if every and meter.batches % every == 0:
            self._report(stage, trainer, meter.batches)

    def _count(self, meter: StageMeter, batch: Any) -> None:
        meter.batches += 1
        if self.batch_size_fn is not None:
            size = self.batch_size_fn(batch)
            meter.samples += size if type(size) is int else self._whole_number("batch_size_fn", size)
        elif meter.has_sizes:
            try:
                meter.samples += batch_size_of(batch)[0]
            except MisconfigurationException:
                self._do_without_sizes(meter, batch)
        if self.length_fn is not None:
            length = self.length_fn(batch)
            meter.lengths += length if type(length) is int else self._whole_number("length_fn", length)
        if meter.flops_of is not None:
            flops = getattr(meter.flops_of, "flops_per_batch", None)
            meter.flops += flops if type(flops) is int else self._operations(meter, flops)

    def _whole_number(self, argument: str, value: Any) -> int:
        """Take an int of numpy's, say; not a tensor's, which may be on a device that would have to be waited for."""
        import torch

        if not isinstance(value, torch.Tensor | bool):
            try:
                return operator.index(value)
            except TypeError:
                pass
        raise MisconfigurationException(
            f"{type(self).__name__}({argument}=...): it returned {value!r:.80} ({type(value).__name__}); expected an "
            "int. Take it from shapes, as batch[0].size(0): reading a tensor's value would wait for the device."
        )

    def _operations(self, meter: StageMeter, value: Any) -> float:
        if value is None:  # the module does not know, and is not asked again
            meter.flops_of = None
            return 0
        if is_number(value):
            return value
        raise MisconfigurationException(
            f"{type(self).__name__}: flops_per_batch of {type(meter.flops_of).__name__} is {value!r:.80} "
            f"({type(value).__name__}); expected a number of floating point operations, an attribute or a property."
        )

    def _do_without_sizes(self, meter: StageMeter, batch: Any) -> None:
        meter.has_sizes = False
        rank_zero_warn(
            f"{type(self).__name__} cannot tell how many samples a batch of type {type(batch).__name__} has and leaves "
            "them out; to have them: ThroughputMonitor(batch_size_fn=...)."
        )

    def _report(self, stage: str, trainer: Trainer, step: int) -> None:
        meter = self._meters[stage]
        meter.update(self.clock())
        metrics = {f"{stage}{self.separator}{name}": value for name, value in meter.throughput.compute().items()}
        self.metrics.update(metrics)
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step=step)

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the totals of each stage that has begun."""
        now = self.clock()
        return {stage: meter.state_dict(now) for stage, meter in self._meters.items() if meter.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the totals of the run that made the state; rates are of this process alone."""
        for stage, totals in state_dict.items():
            if stage in self._meters:
                self._meters[stage].load_state_dict(totals)
