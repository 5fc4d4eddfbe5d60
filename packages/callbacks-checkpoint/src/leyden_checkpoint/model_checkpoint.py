"""ModelCheckpoint: keeps the best checkpoints of a run, the newest, or all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_info, rank_zero_warn
from leyden.state import storage
from leyden.state.together import can_be_saved, note_what_is_lost
from leyden_checkpoint import files
from leyden_checkpoint.kept import KeptCheckpoints
from leyden_checkpoint.naming import folder_of
from leyden_checkpoint.ranking import Mode
from leyden_checkpoint.saving import Turn, decide, free_path, saves_after
from leyden_checkpoint.schedule import Schedule
from leyden_checkpoint.scores import (
    MissingMetric,
    Moment,
    ScoreWatch,
    missing_metric,
    saves_at_epoch_end,
    weights_change_at_epoch_end,
)
from leyden_checkpoint.settings import check_settings
from leyden_checkpoint.standing import adopt, after_restart
from leyden_checkpoint.writing import InFlight, Settled, carry_out, land, make_up, progress_of, settle, unsettle

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["ModelCheckpoint"]


class ModelCheckpoint(KeptCheckpoints):
    """Saves a checkpoint when one is due and keeps the best `save_top_k` by `monitor`, or the newest without it.

    Due is every `every_n_train_steps` optimizer steps, every `every_n_epochs` epochs (1 unless another rhythm is given)
    or every `train_time_interval`. The score belongs to the weights it is saved with: a save that is due before the
    metric of this step is there waits for the next validation, or the end of the epoch, that brings it. NaN is the
    worst score. Only files written by this object in this process are ever deleted.

    Files of an earlier run stay, also when it is resumed and its best are taken over and overtaken. At SIGTERM the run
    is saved too, as ``last.ckpt`` if there is to be one: by the first of these, unless another saves after exceptions.

    Arguments that types don't explain:
        dirpath: folder, or a URL that fsspec knows, as ``s3://bucket/run``; None: ``checkpoints`` in the folder of the
            first logger's version, or in `default_root_dir`.
        filename: template without extension, ``{epoch}-{step}`` unless given; any metric may be named, with a format:
            ``{epoch:02d}-{val_loss:.2f}``. A metric that is missing reads ``nan``.
        monitor: metric to rank by; also ``"step"`` and ``"epoch"``, which need not be logged.
        mode: whether a smaller score is a better one, ``"min"``, or a larger, ``"max"``.
        save_top_k: checkpoints to keep; -1 keeps all, 0 none (then `save_last` alone writes).
        save_last: keep the newest as ``last.ckpt`` too, whether it is among the best or not. ``"link"`` makes it a link
            where the newest is among the best, and a file where it is not, or where there are no links.
        save_on_exception: save the run when an exception, Ctrl-C or SIGTERM ends the training, under these names.
        save_weights_only: leave out all that a fit needs to go on; such a file is for `load_from_checkpoint`.
        save_on_train_epoch_end: True saves at the end of the training epoch, False after validation. None chooses: the
            end of the epoch where a validation ends each epoch or there is none, else after each validation; also
            there with a monitor beside a callback that changes weights at the end of the epoch, as ModelPruning does.
        auto_insert_metric_name: put names before their values, ``epoch=1``; False leaves the template as it is.
        enable_version_counter: a name that is taken gets ``-v1``; False overwrites.
        verbose: log each save with its score, and each that was not among the best.
        asynchronous: training waits only while the tensors are copied to CPU memory (as much as a checkpoint has), and
            goes on while a thread writes them. One save is in flight at most, the next waits for it; an error is raised
            at the next save or at the end of the fit. Paths are named from the beginning of their save on:
            `finish_saving` before you read one while training goes on.
        on_save_error: ``"warn"`` lets training go on where a checkpoint could not be written, as on a full disk;
            ``"raise"`` stops it. The checkpoints before it stay either way.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; at the first save after which
            `monitor` should be there and is not, with the metrics there are.
        OSError: a checkpoint could not be written.

    Example:
        >>> import os
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> newest = ModelCheckpoint(dirpath="kept", filename="{epoch}")
        >>> trainer = Trainer(max_epochs=2, logger=False, callbacks=[newest], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> os.listdir("kept")
        ['epoch=1.ckpt']
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: Mode = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
        asynchronous: bool = False,
        on_save_error: Literal["raise", "warn"] = "raise",
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self" and not name.startswith("__")}
        super().__init__()
        check_settings(type(self).__name__, given, self.CHECKPOINT_NAME_LAST)
        self.dirpath = None if dirpath is None else files.absolute(dirpath)
        self.filename = filename
        self.monitor = monitor
        self.verbose = verbose
        self.save_last = save_last
        self.save_top_k = save_top_k
        self.save_on_exception = self.saves_on_exception = save_on_exception
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.auto_insert_metric_name = auto_insert_metric_name
        no_rhythm = every_n_train_steps is None and every_n_epochs is None and train_time_interval is None
        self.every_n_train_steps = every_n_train_steps or 0
        self.every_n_epochs = 1 if no_rhythm else every_n_epochs or 0
        self.train_time_interval = train_time_interval
        self.save_on_train_epoch_end = save_on_train_epoch_end
        self.enable_version_counter = enable_version_counter
        self.asynchronous = asynchronous
        self.on_save_error = on_save_error

        self.best_k_models: dict[str, Tensor] = {}
        self.best_model_path = ""
        self.best_model_score: Tensor | None = None
        self.kth_best_model_path = ""
        self.kth_value = self.worst_score
        self.current_score: Tensor | None = None
        self.last_model_path = ""
        self.saved_at: tuple[int, int] | None = None
        self.saved_progress: tuple[int, ...] | None = None
        self.unwritten: dict[str, Any] | None = None
        self.waits_for_score = False
        self.written: set[str] = set()
        self.left_over: set[str] = set()

        self._finds_dirpath = dirpath is None
        self._is_training = False
        self._settled: Settled | None = None
        self._in_flight: InFlight | None = None
        self._watched: Mapping[str, Any] | None = None
        self._schedule = Schedule()
        self._watch = None if monitor is None else ScoreWatch(monitor)

    @staticmethod
    def clock() -> float:
        """Return seconds since some moment, for `train_time_interval`; a subclass may have another clock."""
        return time.monotonic()

    # -- when -------------------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        names = ("monitor", "mode", "save_top_k", "save_last", "every_n_train_steps", "every_n_epochs")
        common = {name: getattr(self, name) for name in (*names, "train_time_interval", "save_on_train_epoch_end")}
        return {**common, "save_weights_only": self.save_weights_only, "asynchronous": self.asynchronous}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the folder; a fit that resumes is told after this what was pending."""
        if stage != "fit":
            return
        self.finish_saving(alone=True)  # what an earlier fit left when its end was interrupted
        self.saved_at, self.waits_for_score, self._watched = None, False, None
        self.saved_progress = self.unwritten = None
        if self._finds_dirpath:
            self.dirpath = trainer.strategy.broadcast(folder_of(trainer))
        files.check_shared(self, trainer)
        if trainer.is_global_zero and not trainer.fast_dev_run and self.dirpath:
            storage.tidy(self.dirpath)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting steps and seconds; look which checkpoints of a resumed run are still there."""
        step = trainer.fit_loop.steps_met
        self._is_training = not trainer.fast_dev_run
        self._schedule = Schedule(self.every_n_train_steps, self.every_n_epochs, self.train_time_interval)
        self._schedule.start(step, self.clock())
        self._schedule.looks_together = self.train_time_interval is not None and trainer.world_size > 1
        if self._watch is not None:
            self._watch.start(step)
            if self._watched is not None:
                self._watch.load_state_dict(self._watched)
        if self._is_training:
            make_up(self, trainer)
        standing, gone = trainer.strategy.broadcast(after_restart(self))
        adopt(self, standing)
        if gone:
            names = ", ".join(gone)
            rank_zero_warn(f"{type(self).__name__}: checkpoints of the earlier run are gone and forgotten: {names}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when so many optimizer steps or seconds have passed."""
        schedule, watch = self._schedule, self._watch
        if watch is not None:
            watch.batch_ended(trainer.global_step)
        if not (schedule.follows_steps and self._is_training):
            return
        step = trainer.global_step
        if schedule.stepped(step):
            if schedule.looks_together:
                is_due = self._is_due_for_all(trainer, step)
            else:
                is_due = schedule.is_due_at_step(step, self.clock())
            if is_due or (self.waits_for_score and watch is not None and watch.may_come_any_batch):
                self._save_when_done(trainer, "batch", due=True, ends=is_due)

    def _is_due_for_all(self, trainer: Trainer, step: int) -> bool:
        schedule = self._schedule
        if step < schedule.look_at:
            schedule.pass_by(step)
            return False
        now_s = self.clock()  # that of the first process counts, which also says when all look again
        decided = schedule.is_due_at_step(step, now_s), schedule.next_look(step, now_s)
        is_due: bool
        is_due, schedule.look_at = trainer.strategy.broadcast(decided)
        return is_due

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for this validation, and what is due after each."""
        if not self._is_training or trainer.sanity_checking:
            return
        if self._watch is not None:
            self._watch.validation_ended(trainer)
        self._end(trainer, "validation", ends=not self._saves_at_epoch_end(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what waited for the epoch's metrics, and what is due after each epoch."""
        if self._is_training:
            self._end(trainer, "epoch", ends=self._saves_at_epoch_end(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the last save; say so where one still waits for its score, which nothing will bring now."""
        if self._is_training and self.waits_for_score:
            rank_zero_info(
                f"{type(self).__name__}(monitor={self.monitor!r}): a checkpoint was due, but {self.monitor!r} was not "
                "logged again before training ended, and an older score is not that of these weights. "
                "Validate at the end, or use save_last=True."
            )
        self.finish_saving()
        self._is_training = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what a killed run left unwritten at its end, where nothing was left to train."""
        if not trainer.fast_dev_run:
            make_up(self, trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what there is when training is cut short, if `save_on_exception` or SIGTERM asks for it.

        With several processes all do at SIGTERM. After another exception the first does it alone, since another may
        have failed and not be there to agree with; where each has a share of the weights, nothing can be saved then.
        """
        alone = trainer.world_size == 1 or trainer.strategy.is_torn
        try:
            self.finish_saving(alone=alone)
        finally:
            saves = saves_after(exception, self, trainer) and self._has_something_to_lose(trainer)
            if saves and not can_be_saved(trainer):
                note_what_is_lost(trainer, exception)
            elif saves:
                turn = self._turn_of_exception(trainer)
                settled = settle(self, trainer, turn if alone else trainer.strategy.broadcast(turn), alone=True)
                assert settled is not None
                self._in_flight = carry_out(self, trainer, settled, alone=alone)
                self.finish_saving(alone=alone)

    def _turn_of_exception(self, trainer: Trainer) -> Turn:
        metrics = self._metrics(trainer)
        turn = decide(self, metrics, None, ranked=False, last=True)
        if self.save_on_exception or not turn.last:
            turn.path = free_path(self, metrics)
        return turn

    def _has_something_to_lose(self, trainer: Trainer) -> bool:
        """Whether something was done that no file of this callback holds."""
        training = self._is_training and trainer.fit_loop.underway
        return training and self.saved_progress != progress_of(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save no more until the next training, and wait for what is still being saved."""
        self._is_training = False
        if self._settled is not None:  # an exception came before it was written
            unsettle(self, self._settled)
            self._settled = None
        self.finish_saving(alone=True)

    def finish_saving(self, *, alone: bool = False) -> None:
        """Return once the save in flight, if there is one, is on the disk; raise what kept it from getting there.

        With several processes all must call it, except for one that is `alone` after an exception.
        """
        flight = self._in_flight
        if flight is not None:
            flight.writing.wait()  # an interrupt here leaves it in flight; the interpreter's exit waits for it too
            self._in_flight = None
            land(self, flight, alone=alone)

    def _saves_at_epoch_end(self, trainer: Trainer) -> bool:
        if self.save_on_train_epoch_end is not None:
            return self.save_on_train_epoch_end
        if not saves_at_epoch_end(trainer):
            return False
        # A validation's score is not that of weights which are pruned, say, between it and the epoch's end.
        ranks = self.monitor not in (None, "step", "epoch") and sum(trainer.num_val_batches) > 0
        return not (ranks and weights_change_at_epoch_end(trainer))

    def _end(self, trainer: Trainer, moment: Moment, *, ends: bool) -> None:
        """A validation or an epoch ended; `ends` says whether this is where the callback saves."""
        due = self.waits_for_score or (ends and self._schedule.is_due_after_epoch(trainer.current_epoch))
        if due or (ends and self.save_last):
            self._save_when_done(trainer, moment, due=due, ends=ends)

    def _save_when_done(self, trainer: Trainer, moment: Moment, *, due: bool, ends: bool) -> None:
        """Save when everyone has had the hook that is running, so that the file holds what they do in it."""
        trainer.plan.when_done(partial(self._save, trainer, moment, due=due, ends=ends))

    # -- what -------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer, moment: Moment, *, due: bool, ends: bool) -> None:
        if self._saved_now(trainer) and not self.waits_for_score:
            return
        turn = self._agree(trainer, moment, due=due, ends=ends)
        if turn.files and self._in_flight is not None:
            self.finish_saving()
            turn = self._agree(trainer, moment, due=due, ends=ends)  # what is to be kept may have changed
        self._settled = settle(self, trainer, turn)
        if self._settled is not None:  # write when all callbacks have settled what they save in this hook
            trainer.plan.when_done(partial(self._write, trainer, self._settled))

    def _write(self, trainer: Trainer, settled: Settled) -> None:
        self._settled = None
        self._in_flight = carry_out(self, trainer, settled)

    def _agree(self, trainer: Trainer, moment: Moment, *, due: bool, ends: bool) -> Turn:
        """Let the first process decide; whatever goes wrong there is raised in every process."""
        error: Exception | None = None
        try:
            decided = self._decide(trainer, moment, due=due, ends=ends)
        except Exception as problem:
            error, decided = problem, Turn(error=f"The first process failed: {type(problem).__name__}: {problem}")
        turn: Turn = trainer.strategy.broadcast(decided)
        if error is not None:
            raise error
        if turn.error:
            raise MisconfigurationException(turn.error)
        return turn

    def _decide(self, trainer: Trainer, moment: Moment, *, due: bool, ends: bool) -> Turn:
        metrics, score = self._metrics(trainer), None  # in every process: metrics may be reduced as they are asked for
        if not trainer.is_global_zero:
            return Turn()
        if due and self._watch is not None and self.save_top_k != 0:
            try:
                score = self._watch.look(trainer, metrics, moment)
            except MissingMetric:
                return Turn(error=missing_metric(self.monitor, trainer, type(self).__name__))
        waits = due and self._watch is not None and self.save_top_k != 0 and score is None
        last = ends and not self._saved_now(trainer)
        turn = decide(self, metrics, score, ranked=due, last=last)
        turn.standing["waits_for_score"] = waits
        return turn

    def _saved_now(self, trainer: Trainer) -> bool:
        return self.saved_at == (trainer.current_epoch, trainer.global_step)
