"""The journal of a run: what ``self.log`` was given, what it comes to, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from leyden.logging.batch_size import batch_size_of
from leyden.logging.board import Board
from leyden.logging.metrics import MetricsDict, to_floats
from leyden.logging.output import epoch_row, fresh_row, results_of, save_loggers, write_row
from leyden.logging.records import Key, Record
from leyden.logging.registry import Registry
from leyden.logging.rows import HeldRows
from leyden.logging.rules import Options
from leyden.logging.sharing import Sharing
from leyden.logging.values import check_tensor, is_collection, unusual_value
from leyden.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from leyden.loops.evaluation import EvaluationLoop
    from leyden.trainer import Trainer

__all__ = ["Journal", "Stage"]

Stage = Literal["train", "sanity", "validate", "test"]

_EXACT = 2**53
"""Up to here a float64 holds every int."""

_EPOCH_ENDS = frozenset({"on_train_epoch_end", "on_validation_epoch_end", "on_test_epoch_end", "on_epoch_end"})
"""Hooks in which an epoch's values are there to be read, though more may yet be logged."""

_BATCH_ENDS = frozenset({"on_train_batch_end", "on_batch_end"})


class _Size(int):
    """A batch of which only the size is left; stands in for the batch once it was measured."""


class Journal:
    """Collects what is logged in a run, one per trainer, as ``trainer.journal``.

    Loops and the plan write `hook`, `batch` and `dataloader_idx`, nothing else happens per step unless something is
    logged. A logged value is copied and added to a running number; it is turned into what a logger or a user reads only
    when due, or when somebody looks, and looking changes no result.

    Attributes:
        hook: the hook or step now running; decides what may be logged and how.
        batch: the batch at hand, measured when a value has to be weighted by its size.
        dataloader_idx: the evaluation dataloader now read; ``None`` unless there are several.
        has_step_values: whether the running evaluation logs values for steps.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> run = SimpleNamespace(
        ...     global_step=7, loggers=[], state=SimpleNamespace(fn="fit"), world_size=1, is_global_zero=True
        ... )
        >>> journal = Journal(run)
        >>> journal.start("train")
        >>> journal.hook = "training_step"
        >>> for loss, batch in [(1.0, torch.ones(3, 2)), (5.0, torch.ones(1, 2))]:
        ...     journal.batch = batch
        ...     journal.log("loss", loss, False, None, True, True, "mean", False, False, None, True, None, None, False)
        >>> journal.callback_metrics["loss_step"], journal.callback_metrics.step_of("loss_step")
        (tensor(5.), 7)
        >>> journal.hook = "on_train_epoch_end"
        >>> journal.callback_metrics["loss_epoch"]
        tensor(2.)
    """

    __slots__ = (
        "_batches",
        "_board",
        "_checked_sizes",
        "_has_shared",
        "_held",
        "_is_shared",
        "_records",
        "_registry",
        "_restored",
        "_shares_late",
        "_sharing",
        "_stage",
        "_trainer",
        "batch",
        "dataloader_idx",
        "has_step_values",
        "hook",
    )

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._registry = Registry(trainer)
        self._board = Board()
        self._stage: Stage = "train"
        self._records: dict[Key, Record] = self._registry.of("train")
        self._batches: dict[int | None, int] = {}
        self._checked_sizes = False
        self._restored = False
        self._sharing = {
            stage: Sharing(trainer, self._registry, stage, None if stage == "train" else self._without_batch)
            for stage in ("train", "sanity", "validate", "test")
        }
        self._has_shared = self._is_shared = self._shares_late = False
        self._held = HeldRows()
        self.hook = ""
        self.batch: object = None
        self.dataloader_idx: int | None = None
        self.has_step_values = False

    # -- stages -----------------------------------------------------------------------------------------------------

    def start(self, stage: Stage) -> None:
        """Collect for `stage` from now on, from nothing. Validation within a fit leaves what training has collected."""
        if stage == "validate" and self._trainer.state.fn == "fit":
            self._refresh()
            self._registry.reset("validate")
            self._held.of.clear()
        else:
            if not (stage == "train" and self._restored):
                self.clear()
            self._restored = False
        self._has_shared = self._is_shared = self._shares_late = False
        self._stage = stage
        self.resume(stage)

    def start_train_epoch(self) -> None:
        """Begin an epoch's reductions; what `on_train_start` logged belongs to the first."""
        self._registry.reset("train", but_hook="on_train_start")

    def resume(self, stage: Stage) -> None:
        """Collect for `stage` again, with what it had collected before."""
        self._stage = stage
        self._records = self._registry.of(stage)
        self.batch = self.dataloader_idx = None
        self.has_step_values = stage != "train" and any(r.traits.on_step for r in self._records.values())

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Take what is logged within, and forget it: steps run that belong to no stage."""
        outer = self._stage
        self.resume("sanity")
        try:
            yield
        finally:
            self._registry.reset("sanity")
            self._registry.of("sanity").clear()
            self.resume(outer)

    def clear(self) -> None:
        """Forget all records and metrics: another entry point begins."""
        self._registry.forget()
        self._board.clear()
        self._batches = {}
        self._held.of.clear()
        self._checked_sizes = False

    # -- logging ----------------------------------------------------------------------------------------------------

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool,
        logger: bool | None,
        on_step: bool | None,
        on_epoch: bool | None,
        reduce_fx: Any,
        enable_graph: bool,
        sync_dist: bool,
        sync_dist_group: Any,
        add_dataloader_idx: bool,
        batch_size: int | None,
        metric_attribute: str | None,
        rank_zero_only: bool,
    ) -> None:
        """Take one value; the arguments are those of ``LightningModule.log``.

        Raises `MisconfigurationException` for a hook in which nothing can be reduced, levels the hook has not, or
        other arguments than before, `ValueError` for a value that is not a number.
        """
        record = self._records.get((self.hook, name, self.dataloader_idx))
        options = (
            prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
            add_dataloader_idx, metric_attribute, rank_zero_only,
        )  # fmt: skip
        if record is None or record.options != options:
            if is_collection(value):
                for key, metric in value.items(keep_base=False, copy_state=False):
                    self.log(f"{name}/{key}", metric, *options[:-2], batch_size, *options[-2:])
                return
            record = self._record(name, Options(*options), value)
        if type(value) is Tensor and not enable_graph:
            if value.is_cpu:
                try:
                    value = value.item()
                except RuntimeError:
                    check_tensor(name, value)
                    raise
            else:
                value = value.detach().clone()
        elif type(value) is not float and not (type(value) is int and -_EXACT <= value <= _EXACT):
            value = unusual_value(name, value, record, enable_graph)
        if not record.weighted:
            size = 1
        elif batch_size is not None:
            size = batch_size
        else:
            size = self.batch if type(self.batch) is _Size else self._measure()
        record.add(value, size, self._trainer.global_step)

    def _record(self, name: str, options: Options, value: Any) -> Record:
        """The slow path, once per name and hook: look at everything, so that the next steps need not."""
        if isinstance(value, Tensor):
            check_tensor(name, value)
        record = self._registry.record(self._records, (self.hook, name, self.dataloader_idx), options, value)
        if record.traits.on_step and self._stage != "train":
            self.has_step_values = True
        return record

    def _measure(self) -> int:
        """Measure the batch at hand and let go of it: the journal is not what should keep a batch in memory."""
        size, others = batch_size_of(self.batch, check=not self._checked_sizes)
        self._checked_sizes = True
        if others:
            rank_zero_warn(
                f"The batch's size, which weights the epoch's mean of what is logged, is ambiguous: its tensors have "
                f"the first dimensions {(size, *others)}. {size} is taken; self.log(..., batch_size=n) says it better."
            )
        self.batch = _Size(size)
        return size

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def callback_metrics(self) -> MetricsDict:
        """All metrics, under their own names and, logged for steps and epochs, ``name_step`` and ``name_epoch`` too."""
        self._refresh()
        return self._board.callback

    @property
    def logged_metrics(self) -> MetricsDict:
        """The metrics that go to the loggers."""
        self._refresh()
        return self._board.logged

    @property
    def progress_bar_metrics(self) -> MetricsDict:
        """The metrics logged with ``prog_bar=True``."""
        self._refresh()
        return self._board.progress_bar

    def _refresh(self) -> None:
        """Bring the three dicts up to date."""
        for record in self._records.values():
            self._board.put_latest(record)
        if self.hook in _EPOCH_ENDS:
            self._reduce()

    def _reduce(self) -> dict[Key, Tensor]:
        """Publish and return the epoch's values as they stand now; of several processes, as they last shared them."""
        values: dict[Key, Tensor] = {}
        for key, record in self._records.items():
            if not record.traits.on_epoch:
                continue
            if record.of_all is not None:
                values[key] = record.of_all
            elif record.count and not (record.shares and record.kind == "metric") and self._registry.can_reduce(record):
                values[key] = record.compute()
            if key in values:
                self._board.put_epoch(record, values[key], self._trainer.global_step)
        return values

    # -- several processes ------------------------------------------------------------------------------------------

    def meetings(self) -> dict[str, tuple[Callable[..., object], Callable[..., object] | None]]:
        """Return, by hook, the calls in which all processes bring their values together.

        One is made before all others, one behind the module, before those who monitor. Nothing else here is collective.
        """
        at_end = self._share_epoch, self._share_epoch_hooks
        return {
            "on_train_batch_end": (self._share_steps, None),
            "on_train_epoch_end": at_end,
            "on_validation_epoch_end": at_end,
            "on_test_epoch_end": at_end,
        }

    def _share_steps(self, *args: Any) -> None:
        """Share values of steps where a row is due, and once at the beginning: not at each step."""
        loop, every = self._trainer.fit_loop, self._trainer.settings.log_every_n_steps
        due = (loop.batches_that_stepped + 1) % every == 0 if every else False
        if loop.window_ends and (due or not self._has_shared):
            sharing = self._sharing["train"]
            sharing.share(steps=True)
            self._has_shared = True
            # What hooks behind this one log is shared where the row is written, if all are known to log there.
            self._shares_late = due and any(one.key[0] in _BATCH_ENDS for one in sharing.of_steps)

    def _share_epoch(self, *args: Any) -> None:
        sharing = self._sharing[self._stage]
        sharing.share(steps=self._stage == "train", epoch=True)
        if self._stage in ("validate", "test") and sharing.of_steps:
            own = {index: max(rows) + 1 for index, rows in self._held.of.items()}
            before = {index: count - own.get(index, 0) for index, count in self._batches.items()}
            for index, batch, row in self._held.shared(sharing):
                step = before.get(index, 0) + batch
                write_row(self._trainer, row, step, epoch=False)
                self._batches[index] = step + 1  # also where this process has had fewer batches than another

    def _share_epoch_hooks(self, *args: Any) -> None:
        self._sharing[self._stage].share(epoch_hooks=True)
        self._is_shared = True

    def _end_epoch(self) -> dict[Key, Tensor]:
        """Return the epoch's values, shared now where a run goes on behind the hooks in which they are."""
        if self._trainer.world_size > 1 and not self._is_shared:
            self._share_epoch()
        self._is_shared = False
        self._refresh()
        return self._reduce()

    @property
    def _loop(self) -> EvaluationLoop:
        trainer = self._trainer
        if self._stage == "test":
            return trainer.test_loop
        return trainer.fit_loop.val_loop if trainer.state.fn == "fit" else trainer.validate_loop

    def _without_batch(self) -> list[int]:
        return self._loop.loaders_without_batch

    # -- writing ----------------------------------------------------------------------------------------------------

    def train_batch_end(self) -> None:
        """Write what was logged for steps since the last time; the fit loop calls it every `log_every_n_steps`."""
        step = self._trainer.fit_loop.batches_that_stepped
        if self._shares_late:
            self._sharing["train"].share(steps=True)
            self._shares_late = False
        write_row(self._trainer, fresh_row(self._records), step, epoch=True)

    def train_epoch_end(self) -> None:
        """Reduce the epoch's values, write them at the epoch's last step, and begin anew."""
        step = max(self._trainer.fit_loop.batches_that_stepped - 1, 0)
        values = self._end_epoch()
        write_row(self._trainer, epoch_row(self._records, values), step, epoch=True)
        save_loggers(self._trainer)
        self._registry.reset("train")

    def eval_batch_end(self) -> None:
        """Write what this evaluation batch logged for its step; batches count on, per dataloader, through a fit."""
        step, index = self._batches.get(self.dataloader_idx, 0), self.dataloader_idx
        if self._stage == "sanity":
            return
        if shared := [one for one in self._sharing[self._stage].of_steps if one.fresh and one.latest is not None]:
            latest = {one.key: one.latest for one in shared if one.key[2] == index and one.latest is not None}
            self._held.hold(index, self._loop.batch_idx, fresh_row(self._records), latest)
        else:
            write_row(self._trainer, fresh_row(self._records), step, epoch=False)
        self._batches[index] = step + 1

    def eval_epoch_end(self) -> list[dict[str, float]]:
        """Reduce an evaluation's values, write them, and return them as one dict per dataloader."""
        values = self._end_epoch()
        results = results_of(self._records, to_floats(values))
        if self._stage != "sanity":
            step = self._trainer.fit_loop.batches_that_stepped
            row = {name: value for result in results for name, value in result.items()}
            write_row(self._trainer, row, step, epoch=True)
            save_loggers(self._trainer)
        self._registry.reset(self._stage)
        return results

    # -- state ------------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, Any]:
        """Return the latest metrics with their steps."""
        self._refresh()
        return self._board.state_dict()

    def show(self, metrics: dict[str, Any]) -> None:
        """Have the metrics of a run in another process, and none of its running reductions."""
        self.clear()
        self._board.load_state_dict(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return running reductions and the latest metrics with their steps, as plain data and tensors."""
        self._refresh()
        state = {
            "stage": self._stage,
            "records": self._registry.state_dict(),
            "metrics": self._board.state_dict(),
            "batches": [[index, count] for index, count in self._batches.items()],
        }
        return {**state, "held": self._held.state_dict()} if self._held.of else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the run that made `state` would have: reductions cut in mid-epoch end bit-equal."""
        self.clear()
        self._registry.load_state_dict(state["records"])
        self._board.load_state_dict(state["metrics"])
        self._batches = dict(state["batches"])
        self._held.load_state_dict(state.get("held", []))
        self.resume(state["stage"])
        self._restored = True
