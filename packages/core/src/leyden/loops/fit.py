"""The fit loop: sanity check, epochs, batches, validation when due, in the order they happen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.data.sources import TrainSource
from leyden.data.transfer import move_to_device
from leyden.loops.boundaries import boundary_of
from leyden.loops.evaluation import EvaluationLoop
from leyden.loops.fit_limits import FitLimits, tell_of_no_work
from leyden.loops.lengths import check_length
from leyden.loops.lookahead import open_batches
from leyden.loops.manual import ManualOptimization
from leyden.loops.modes import warn_of_eval_mode
from leyden.loops.optimization import AutomaticOptimization
from leyden.loops.schedule import ValidationSchedule
from leyden.loops.schedulers import step_schedulers
from leyden.loops.sources import request_train_source
from leyden.rank_zero import rank_zero_warn
from leyden.run_state import RunningStage
from leyden.seed import isolate_rng

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["FitLoop"]


class FitLoop(FitLimits):
    """Trains a module. Its counters are the progress of the run; its limits are those of the trainer."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.source: TrainSource | None = None
        self.val_loop = EvaluationLoop(trainer, "validate")
        self._optimization: AutomaticOptimization | ManualOptimization | None = None
        self._log_every = 0

    # -- a fit ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until an epoch, step or time limit, or until ``trainer.should_stop``."""
        trainer, plan = self._trainer, self._trainer.plan
        if trainer.settings.limit_train_batches == 0:
            tell_of_no_work()
            return
        self.sanity_check()
        trainer.state.stage = RunningStage.TRAINING
        self.setup_data()
        if self.val_loop.wanted:
            self.val_loop.setup_data()
        if not self._has_work():
            return
        trainer.journal.start("train")
        warn_of_eval_mode(trainer.lightning_module)
        automatic = trainer.lightning_module.automatic_optimization
        self._optimization = AutomaticOptimization(trainer) if automatic else ManualOptimization(trainer)
        if plan.on_train_start is not None:
            plan.on_train_start()
        self._go_on()
        try:
            while self._epoch_is_open or not self.done:
                self.run_epoch()
        finally:
            self.marks.unwatch_steps()
        if plan.on_train_end is not None:
            plan.on_train_end()

    def setup_data(self) -> None:
        """Ask for the training dataloader, the first time and every `reload_dataloaders_every_n_epochs`."""
        settings = self._trainer.settings
        every = settings.reload_dataloaders_every_n_epochs
        if self.source is not None and (not every or self.epoch - self.loaded_at_epoch < every):
            return
        if self.source is not None or not self._resumed:
            self.loaded_at_epoch = self.epoch
        with self.as_of(self.loaded_at_epoch):
            self.source = request_train_source(self._trainer)
        self.schedule = ValidationSchedule.of(settings, self.num_batches) if self.num_batches else self.schedule

    def forget_data(self) -> None:
        """Ask for dataloaders anew: another fit may bring others."""
        self.source = None
        self.val_loop.forget_data()

    def sanity_check(self) -> None:
        """Run a few validation batches first, so that a mistake there shows at once. Not when resuming.

        A check leaves no trace: the training that follows draws the random numbers that it draws without one.
        """
        trainer, plan, batches = self._trainer, self._trainer.plan, self._trainer.settings.sanity_batches
        if not batches or self._resumed or not self.val_loop.wanted:
            return
        trainer.state.stage = RunningStage.SANITY_CHECKING
        with isolate_rng():
            if plan.on_sanity_check_start is not None:
                plan.on_sanity_check_start()
            self.val_loop.setup_data()
            self.val_loop.run(sanity_batches=batches)
            if plan.on_sanity_check_end is not None:
                plan.on_sanity_check_end()
        trainer.state.stage = RunningStage.TRAINING

    # -- an epoch ---------------------------------------------------------------------------------------------------

    def run_epoch(self) -> None:
        """Train one epoch, or the rest of it after a resume."""
        trainer, plan = self._trainer, self._trainer.plan
        self._saves_exceptions = any(callback.saves_on_exception for callback in trainer.callbacks)
        if not self.epoch_started:
            self.setup_data()
            trainer.journal.start_train_epoch()
            assert self._optimization is not None
            self._optimization.window_open = False  # a window that a skipped epoch left open is given up
            self.window_from, self.left_out = 0, frozenset()
            plan.train_outputs[:] = [[]]
        assert self.source is not None
        self.source.set_epoch(self.epoch)
        if not self.epoch_started and plan.on_train_epoch_start is not None:
            if self._saves_exceptions:
                self.marks.mark("epoch")
            plan.on_train_epoch_start()
            self.marks.passed()
        self.epoch_started = True
        if self.pending not in ("epoch_end", "epoch"):
            self._run_batches(self.source)
            if not (self.is_last_batch or self.epoch_skipped):
                self._short = boundary_of(trainer, "epoch_end")  # with other limits a run goes on from here
            self.pending = "epoch_end"
        if self.pending == "epoch_end":
            if plan.on_train_epoch_end is not None:
                self.marks.mark_end("epoch_end")
                self.pending = "epoch"
                plan.on_train_epoch_end()
            self.pending = "epoch"
        if self._saves_exceptions:
            self.marks.mark("epoch_done")
        trainer.journal.train_epoch_end()
        if self.is_last_batch:
            self._step_schedulers("epoch", self.epoch + 1, plateau=True)
        self.marks.passed()
        self.epoch += 1
        self.batches_done, self.batch_idx, self.pending = 0, -1, ""
        self.epoch_started = self.epoch_skipped = False
        self._resumed, self._ahead, self._opened = {}, None, None
        self.forget_calls()

    def _run_batches(self, source: TrainSource) -> None:
        """The hot path: what a batch does not need is not done, and nothing here asks twice what cannot change."""
        trainer, optimization, epoch = self._trainer, self._optimization, self.epoch
        plan, journal, engine = trainer.plan, trainer.journal, trainer.engine
        assert optimization is not None
        self._decide_for_the_epoch()
        optimization.leave_out(self.left_out)
        batches = self._batches_left(source)
        if batches is None:
            return
        run_batch = partial(self.marks.run_batch, optimization) if self._saves_exceptions else optimization.run
        transfer, num_batches = trainer.batch_transfer, source.num_batches
        ahead, batch_idx = self._ahead, self.batches_done - 1
        for batch in batches:
            batch_idx += 1
            self.batch_idx = batch_idx
            self.is_last_batch = last = ahead.exhausted if ahead is not None else batch_idx + 1 == num_batches
            if transfer is not None:
                batch = transfer(batch, 0)
            journal.batch = batch
            if plan.on_train_batch_start is not None:
                plan.on_train_batch_start(batch, batch_idx)
            module_start = plan.module_on_train_batch_start
            if module_start is not None and module_start(batch, batch_idx) == -1:
                trainer.strategy.skips_epoch(trainer.lightning_module, epoch)
                self._step_schedulers("epoch", epoch + 1)
                self.epoch_skipped = True
                break
            accumulate = trainer.accumulate_grad_batches
            self.window_ends = window_ends = (
                last or accumulate == 1 or (batch_idx + 1 - self.window_from) % accumulate == 0
            )
            self.stepped = stepped = run_batch(batch, batch_idx, window_ends=window_ends)
            if window_ends and trainer.lr_scheduler_configs:
                if stepped:
                    self._step_schedulers("step", engine.steps)
                if last:
                    self._step_schedulers("epoch", epoch + 1)
            self.pending = "batch"
            self.batches_done = batch_idx + 1
            self.batches_seen += 1
            if plan.on_train_batch_end is not None:
                plan.on_train_batch_end(optimization.outputs, batch, batch_idx)
            if plan.wants_train_outputs:
                plan.train_outputs[0].append(optimization.outputs)
            if batch_idx >= self.call_behind:
                self.make_calls()
            if self._finish_batch():
                break
        else:
            check_length(trainer, source, validates=self._validates)

    def _batches_left(self, source: TrainSource) -> Iterator[Any] | None:
        """Do what a run that was cut left to do; return the batches after that, None where the epoch has no more."""
        resumed = self._resumed.get("place")
        opened = self._end_batch_again(source) if self.pending == "batch_end" else None
        if self.pending == "batch" and self.batches_done > self.call_behind:
            self.make_calls()
        if self.batches_done:
            if self._finish_batch() if self.pending else self._reaches_a_limit():
                return None
            if self.is_last_batch and opened is None:
                if resumed is not None:
                    source.come_to_its_end(resumed["train"])
                return None
            if 0 < source.num_batches <= self.batches_done and opened is None:
                self._end_shorter_epoch(source)
                return None
        if self._saves_exceptions:
            self.marks.mark("batch")
        if opened is None:
            place = None if resumed is None else resumed["train"]
            self._note_draws()
            opened, self._ahead = open_batches(source, place, self._trainer.profiler, self.await_last_batch)
        self._resumed = {}
        return opened

    def _end_batch_again(self, source: TrainSource) -> Iterator[Any] | None:
        """Do what a batch's step brings and call its last hooks, which were cut; return the batches if one was read."""
        trainer, plan, optimization, ended = self._trainer, self._trainer.plan, self._optimization, self.marks.ended
        assert optimization is not None
        assert ended is not None
        self.batch_idx = batch_idx = self.batches_done
        if self._saves_exceptions:  # reading may be cut, too
            self.marks.mark("batch_end")
        batch, batches, ahead = ended.take_up(trainer, source)
        if batches is not None:
            self._resumed, self._ahead = {}, ahead
        outputs = optimization.outputs = move_to_device(ended.outputs, trainer.strategy.root_device)
        trainer.journal.batch = batch
        if self._saves_exceptions:
            self.marks.mark_batch_end(optimization, batch)
        if self.window_ends:
            if self.stepped:
                self._step_schedulers("step", trainer.engine.steps)
            if self.is_last_batch:
                self._step_schedulers("epoch", self.epoch + 1)
        self.pending = "batch"
        self.batches_done += 1
        self.batches_seen += 1
        if plan.on_train_batch_end is not None and outputs is not None:
            plan.on_train_batch_end(outputs, batch, batch_idx)
        if plan.wants_train_outputs:
            plan.train_outputs[0].append(outputs)
        self.marks.passed()
        return batches

    def _end_shorter_epoch(self, source: TrainSource) -> None:
        """A run went on within an epoch that has become shorter than what is done of it: do what its end brings."""
        rank_zero_warn(
            f"the run goes on after batch {self.batches_done} of epoch {self.epoch}, of which there are only "
            f"{source.num_batches} now: the epoch ends here. The batch size, the dataset or limit_train_batches is "
            "another than when the checkpoint was made."
        )
        self.is_last_batch = True
        self._step_schedulers("epoch", self.epoch + 1)
        ends = self._trainer.attention_wanted and self._ends_before_the_rest()
        if self._validates and self._validation_due(ends):
            self.pending = "validation"
            self.validate()
            self.pending = ""
        if self._saves_exceptions:
            self.marks.mark("batch")

    def _decide_for_the_epoch(self) -> None:
        """Settle once an epoch what `_finish_batch` would otherwise ask after every batch."""
        trainer = self._trainer
        trainer.strategy.begin_epoch(self.num_batches)
        trainer.strategy.watch_batches(self.has_more)
        settings = trainer.settings
        self._validates = self.val_loop.wanted
        self._log_every = settings.log_every_n_steps or 0
        self._max_steps = math.inf if settings.max_steps == -1 else settings.max_steps
        self._saves_exceptions = any(callback.saves_on_exception for callback in trainer.callbacks)
        if self._saves_exceptions:
            self.marks.watch_steps()

    def _finish_batch(self) -> bool:
        """Do what follows a batch's last hooks: log row, validation, counters; return whether training stops here."""
        trainer, log_every = self._trainer, self._log_every
        ends = trainer.attention_wanted and self._ends_before_the_rest()
        if self.pending == "batch":
            if self.window_ends and log_every:
                due = (self.batches_that_stepped + 1) % log_every == 0
                if due or ends:
                    if self._saves_exceptions:
                        self.marks.mark("batch_done")
                    trainer.journal.train_batch_end()
            if self._validates and self._validation_due(ends):
                self.pending = "validation"
        if self.pending == "validation":
            self.validate()
            self.pending = "batch"
        if self.window_ends:
            if self.stepped and trainer.lr_scheduler_configs:
                if self._saves_exceptions:
                    self.marks.mark("batch_done")
                self._step_schedulers("step", trainer.engine.steps, plateau=True)
            self.batches_that_stepped += 1
            self.window_ends = False
        self.pending = ""
        if self._saves_exceptions:
            self.marks.mark("batch")
        return (trainer.attention_wanted and self._stops_here()) or trainer.engine.steps >= self._max_steps

    def validate(self) -> None:
        """Run validation within training."""
        trainer, optimization = self._trainer, self._optimization
        assert optimization is not None
        trainer.state.stage = RunningStage.VALIDATING
        self.val_loop.setup_data()
        if self._saves_exceptions and not self.val_loop.goes_on:
            self.marks.mark("validation")
        # Gradients of an unfinished window must outlive the validation.
        if not optimization.window_open and not self.val_loop.goes_on:
            trainer.journal.hook = "on_validation_model_zero_grad"
            trainer.lightning_module.on_validation_model_zero_grad()
        self.val_loop.run()
        self.validated_at = self.batches_seen
        trainer.state.stage = RunningStage.TRAINING

    def _step_schedulers(self, interval: str, count: int, *, plateau: bool = False) -> None:
        """Step the schedulers that are due; under manual optimisation that is the module's to do."""
        if self._trainer.lr_scheduler_configs and isinstance(self._optimization, AutomaticOptimization):
            step_schedulers(self._trainer, interval, count, plateau=plateau)
