"""The loops that do not train: what validation, test and prediction share, and the first two of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.data.sources import EvalSource
from leyden.errors import MisconfigurationException
from leyden.loops.modes import modes_of, restore_modes
from leyden.loops.sources import has_loader, request_eval_source
from leyden.loops.steps import step_arguments, under_context
from leyden.rank_zero import rank_zero_warn
from leyden.types import EVALUATE_OUTPUT

if TYPE_CHECKING:
    from leyden.logging.journal import Stage
    from leyden.trainer import Trainer

__all__ = ["EvaluationLoop", "GradientFreeLoop"]


class GradientFreeLoop:
    """A pass over one or several dataloaders without gradients.

    Attributes:
        stage: "validate", "test" or "predict".
        hooks: the word its hooks carry: "validation", "test" or "predict".
        batch_idx: the batch now running, within its dataloader.
        dataloader_idx: the dataloader now read.
        batches_done: its batches that are done, that of a running `on_…_batch_end` included.
        batches_seen: batches done since the trainer was made.
        loaded_at_epoch: the epoch for which the dataloaders were asked for.
        loaders_without_batch: those that have had none in the pass, in this process.
    """

    def __init__(self, trainer: Trainer, stage: str) -> None:
        self._trainer = trainer
        self.stage = stage
        self.hooks = "validation" if stage == "validate" else stage
        self._loader_name = f"{'val' if stage == 'validate' else stage}_dataloader"
        self._limit_name = f"limit_{'val' if stage == 'validate' else stage}_batches"
        self.batch_idx = 0
        self.dataloader_idx = self.batches_done = 0
        self.batches_seen = 0
        self.source: EvalSource | None = None
        self._told_of_no_step = False
        self.loaded_at_epoch = 0
        self.loaders_without_batch: list[int] = []

    @property
    def wanted(self) -> bool:
        """Whether this pass has a step, a dataloader and is not limited to nothing."""
        trainer = self._trainer
        if getattr(trainer.settings, self._limit_name) == 0:
            return False
        has_step, has_data = trainer.module_overrides(f"{self.hooks}_step"), has_loader(trainer, self._loader_name)
        if has_data and not has_step and not self._told_of_no_step:
            self._told_of_no_step = True
            rank_zero_warn(
                f"{type(trainer.lightning_module).__name__} has a {self._loader_name} but no {self.hooks}_step, so "
                f"{self.hooks} is skipped; "
                f"define {self.hooks}_step or drop the dataloader."
            )
        return has_step and has_data

    @property
    def num_batches(self) -> list[int | float]:
        """Batches per dataloader; ``math.inf`` where unknown; empty before the dataloaders are there."""
        return [] if self.source is None else list(self.source.num_batches)

    def position(self) -> tuple[int | float, int | float]:
        """Return how many batches of the pass are done, of all dataloaders, and how many there are."""
        counts = self.num_batches
        return sum(counts[: self.dataloader_idx]) + self.batches_done, sum(counts) if counts else math.inf

    def forget_data(self) -> None:
        """Ask for dataloaders anew: another run may bring others."""
        self.source, self._told_of_no_step = None, False

    def setup_data(self) -> None:
        """Ask for the dataloaders, the first time and, within a fit, every `reload_dataloaders_every_n_epochs`."""
        trainer, every = self._trainer, self._trainer.settings.reload_dataloaders_every_n_epochs
        epoch = trainer.fit_loop.epoch
        if self.source is not None and (not every or epoch - self.loaded_at_epoch < every):
            return
        if self.source is not None or not trainer.fit_loop.resumes:
            self.loaded_at_epoch = epoch
        with trainer.fit_loop.as_of(self.loaded_at_epoch):
            self.source = request_eval_source(trainer, self.stage)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The pass as a context: no gradients, the module in evaluation mode, and after it in the modes it had.

        A module with an `on_<stage>_model_train` of its own sets its modes there, unless the pass is cut short.
        """
        trainer, module = self._trainer, self._trainer.lightning_module
        modes = modes_of(module)
        inference_mode = trainer.settings.inference_mode and trainer.strategy.allows_inference_mode
        try:
            self._call_module("model_eval")
            with torch.inference_mode() if inference_mode else torch.no_grad():
                yield
        except BaseException:
            restore_modes(modes)  # whoever catches this may train on
            raise
        if trainer.module_overrides(f"on_{self.hooks}_model_train"):
            self._call_module("model_train")
        else:
            restore_modes(modes)

    def _has_batches(self) -> bool:
        """Whether there is a batch, if not here then in another process: all go through the pass, or none."""
        assert self.source is not None
        return self._trainer.strategy.reduce_boolean_decision(any(self.source.num_batches), all=False)

    def _call_module(self, event: str) -> None:
        self._trainer.journal.hook = name = f"on_{self.hooks}_{event}"
        getattr(self._trainer.lightning_module, name)()

    def call(self, event: str) -> None:
        """Call the hook ``on_<stage>_<event>``."""
        runner = getattr(self._trainer.plan, f"on_{self.hooks}_{event}")
        if runner is not None:
            runner()

    def module_step(self, name: str) -> Callable[..., Any]:
        """The module's step as this pass calls it."""
        trainer = self._trainer
        assert self.source is not None
        step = trainer.strategy.step_of(trainer.lightning_module, name)
        step = step_arguments(step, trainer.lightning_module, name, several_loaders=self.source.several)
        step = under_context(step, trainer.precision_plugin.forward_context)
        return step if trainer.profiler is None else trainer.profiler.wrap_action(name, step)

    def batches(
        self, source: EvalSource, resumed: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[int, Iterator[Any]]]:
        """Yield each dataloader's index and its batches; with `resumed` those that are left since."""
        source.set_epoch(self._trainer.fit_loop.epoch)
        for dataloader_idx, batches in source.resume(resumed):
            if self._trainer.profiler is not None:
                batches = self._trainer.profiler.wrap_iterator(f"next({self._loader_name})", batches)
            yield dataloader_idx, batches


class EvaluationLoop(GradientFreeLoop):
    """Validation or test: steps, hooks, and one dict of metrics per dataloader.

    Attributes:
        phase: what is going on: "start", "batches", "epoch_end" or "end" (the hooks of that name), "reduced" between
            these two, "" when nothing is.
    """

    def __init__(self, trainer: Trainer, stage: str) -> None:
        super().__init__(trainer, stage)
        self.phase = ""
        self._row_is_due = self._unread = False
        self._resumed: Mapping[str, Any] | None = None

    def run(self, sanity_batches: int | float | None = None) -> EVALUATE_OUTPUT:
        """Evaluate once; with `sanity_batches` only that many batches of each dataloader, and nothing is logged."""
        trainer, journal = self._trainer, self._trainer.journal
        assert self.source is not None
        if not self._has_batches():
            return []
        within_fit = trainer.state.fn == "fit"
        results: EVALUATE_OUTPUT = []
        with self.evaluating():
            if not self.goes_on:
                stage: Stage = "validate" if self.stage == "validate" else "test"
                journal.start(stage if sanity_batches is None else "sanity")
                self.phase = "start"
                self.call("start")
                self.call("epoch_start")
                self.phase = "batches"
            if self.phase == "batches":
                source = self.source if sanity_batches is None else self.source.first(sanity_batches)
                with trainer.strategy.evaluating(trainer.lightning_module, source.num_batches):
                    self._run_batches(source)
                self._call_end("epoch_end")
            if self.phase == "epoch_end":
                marks = trainer.fit_loop.marks if self._is_of_fit and trainer.fit_loop.marks_boundaries else None
                if marks is not None:
                    marks.mark("validation_done")
                results = journal.eval_epoch_end()
                self.phase = "reduced"
                if marks is not None:
                    marks.passed()
            if self.phase == "reduced":
                self._call_end("end")
        self.phase, self._resumed, self._unread = "", None, False
        if within_fit:
            journal.resume("train")
        return results

    def _call_end(self, event: str) -> None:
        """Call the hooks of an end; what is saved from here on, but for an exception in them, has them done."""
        if self._is_of_fit and getattr(self._trainer.plan, f"on_{self.hooks}_{event}") is not None:
            self._trainer.fit_loop.marks.mark_end("validation_end" if event == "end" else "validation_epoch_end")
        self.phase = event
        self.call(event)

    # -- state, within a fit ----------------------------------------------------------------------------------------

    @property
    def _is_of_fit(self) -> bool:
        return self._trainer.fit_loop.val_loop is self

    @property
    def goes_on(self) -> bool:
        """Whether the next run is the rest of one that a checkpoint was made in."""
        return self._resumed is not None

    @property
    def in_batch(self) -> bool:
        """Whether a batch has been read that is not done yet."""
        return self.phase == "batches" and self.batch_idx == self.batches_done

    def state_dict(self) -> dict[str, Any] | None:
        """Where this pass stands, as plain data; None where going on means to begin."""
        if self.phase in ("", "start"):
            return None
        if self._unread:
            return None if self._resumed is None else {**self._resumed, "phase": self.phase}
        assert self.source is not None
        place = self.source.state_dict(self.dataloader_idx, self.batches_done)
        return {"phase": self.phase, "seen": self.batches_seen, "row_is_due": self._row_is_due, "place": place}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Let the next run be the rest of the pass in which `state` was made."""
        self._resumed, self._unread = state, state is not None
        if state is not None:
            self.phase, self.batches_seen, self._row_is_due = state["phase"], state["seen"], state["row_is_due"]
            self.batches_done, self.dataloader_idx = state["place"]["batches"], state["place"]["dataloader_idx"]
            self._trainer.journal.resume("validate")

    def _run_batches(self, source: EvalSource) -> None:
        trainer, plan, journal = self._trainer, self._trainer.plan, self._trainer.journal
        name = f"{self.hooks}_step"
        step, transfer, several = self.module_step(name), trainer.batch_transfer, source.several
        before, after = f"on_{self.hooks}_batch_start", f"on_{self.hooks}_batch_end"
        resumed = None if self._resumed is None else self._resumed["place"]
        self.loaders_without_batch = []
        marks: Callable[[], object] | None = None
        if self._is_of_fit and trainer.fit_loop.marks_boundaries:
            marks = partial(trainer.fit_loop.marks.mark, "validation_batch")
        self._open_loader(0 if resumed is None else int(resumed["dataloader_idx"]), resumed)
        if marks is not None:
            marks()
        for dataloader_idx, batches in self.batches(source, resumed):
            self._unread = False
            journal.dataloader_idx = dataloader_idx if several else None
            extra = (dataloader_idx,) if several else ()
            batch_idx = self._write_row_owed()
            for batch in batches:
                batch_idx += 1
                self.batch_idx = batch_idx
                if transfer is not None:
                    batch = transfer(batch, dataloader_idx)
                journal.batch = batch
                start, end = getattr(plan, before), getattr(plan, after)
                if start is not None:
                    start(batch, batch_idx, *extra)
                journal.hook = name
                output = step(batch, batch_idx, *extra)
                if output.__class__ is not Tensor and output is not None:
                    self._check_output(output)
                self.batches_done, self._row_is_due = batch_idx + 1, True
                self.batches_seen += 1
                if end is not None:
                    if marks is not None:
                        trainer.fit_loop.marks.keep_to_the_end()
                    end(output, batch, batch_idx, *extra)
                if journal.has_step_values:
                    if marks is not None:
                        trainer.fit_loop.marks.mark("validation_done")
                    journal.eval_batch_end()
                self._row_is_due = False
                if marks is not None:
                    marks()
                if trainer.attention_wanted and not (self._is_of_fit and trainer.world_size > 1):
                    trainer.raise_on_sigterm()  # processes that train together end behind the same training batch
            if batch_idx < 0:
                self.loaders_without_batch.append(dataloader_idx)
            if dataloader_idx + 1 < len(source.loaders):
                self._open_loader(dataloader_idx + 1)
                if marks is not None:  # before the loader begins, which draws random numbers
                    marks()
        journal.dataloader_idx = None

    def _open_loader(self, dataloader_idx: int, resumed: Mapping[str, Any] | None = None) -> None:
        """Count from the loader's first batch, or from where a run was cut."""
        self.dataloader_idx, self.batches_done = dataloader_idx, 0 if resumed is None else int(resumed["batches"])
        self.batch_idx = self.batches_done - 1

    def _write_row_owed(self) -> int:
        """Write the row of the batch in whose last hooks a run was cut; return the index of the batch done last."""
        if self._row_is_due and self._trainer.journal.has_step_values:
            self._trainer.journal.eval_batch_end()
        self._row_is_due = False
        return self.batch_idx

    def _check_output(self, output: Any) -> None:
        if isinstance(output, str | bytes | bool | type):
            raise MisconfigurationException(
                f"{type(self._trainer.lightning_module).__name__}.{self.hooks}_step returned {output!r:.80} "
                f"({type(output).__name__}); expected a "
                "tensor, a dict, or None."
            )
