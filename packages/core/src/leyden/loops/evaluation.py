"""The loops that do not train: what validation, test and prediction share, and the first two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    from leyden.trainer import Trainer

__all__ = ["EvaluationLoop", "GradientFreeLoop"]


class GradientFreeLoop:
    """A pass over one or several dataloaders without gradients.

    Attributes:
        stage: "validate", "test" or "predict".
        hooks: the word its hooks carry: "validation", "test" or "predict".
        batch_idx: the batch now running, within its dataloader.
        batches_seen: batches done since the trainer was made.
    """

    def __init__(self, trainer: Trainer, stage: str) -> None:
        self._trainer = trainer
        self.stage = stage
        self.hooks = "validation" if stage == "validate" else stage
        self._loader_name = f"{'val' if stage == 'validate' else stage}_dataloader"
        self._limit_name = f"limit_{'val' if stage == 'validate' else stage}_batches"
        self.batch_idx = 0
        self.batches_seen = 0
        self.source: EvalSource | None = None
        self._loaded_at_epoch = 0

    @property
    def wanted(self) -> bool:
        """Whether this pass has a step, a dataloader and is not limited to nothing."""
        trainer = self._trainer
        if getattr(trainer.settings, self._limit_name) == 0:
            return False
        has_step, has_data = trainer.module_overrides(f"{self.hooks}_step"), has_loader(trainer, self._loader_name)
        if has_data and not has_step:
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

    def setup_data(self) -> None:
        """Ask for the dataloaders, the first time and, within a fit, every `reload_dataloaders_every_n_epochs`."""
        trainer, every = self._trainer, self._trainer.settings.reload_dataloaders_every_n_epochs
        epoch = trainer.fit_loop.epoch
        if self.source is not None and (not every or epoch - self._loaded_at_epoch < every):
            return
        self.source = request_eval_source(trainer, self.stage)
        self._loaded_at_epoch = epoch

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The pass as a context: no gradients, the module in evaluation mode, and after it in the modes it had.

        A module with an `on_<stage>_model_train` of its own sets its modes there, unless the pass is cut short.
        """
        trainer, module = self._trainer, self._trainer.lightning_module
        modes = modes_of(module)
        try:
            self._call_module("model_eval")
            with torch.inference_mode() if trainer.settings.inference_mode else torch.no_grad():
                yield
        except BaseException:
            restore_modes(modes)  # whoever catches this may train on
            raise
        if trainer.module_overrides(f"on_{self.hooks}_model_train"):
            self._call_module("model_train")
        else:
            restore_modes(modes)

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

    def batches(self, source: EvalSource) -> Iterator[tuple[int, Iterator[Any]]]:
        """Yield each dataloader's index and its batches."""
        source.set_epoch(self._trainer.fit_loop.epoch)
        for dataloader_idx, batches in source:
            if self._trainer.profiler is not None:
                batches = self._trainer.profiler.wrap_iterator(f"next({self._loader_name})", batches)
            yield dataloader_idx, batches


class EvaluationLoop(GradientFreeLoop):
    """Validation or test: steps, hooks, and one dict of metrics per dataloader."""

    def run(self, sanity_batches: int | float | None = None) -> EVALUATE_OUTPUT:
        """Evaluate once; with `sanity_batches` only that many batches of each dataloader, and nothing is logged."""
        trainer, journal = self._trainer, self._trainer.journal
        assert self.source is not None
        if not any(self.source.num_batches):
            return []
        within_fit = trainer.state.fn == "fit"
        journal.start("sanity" if sanity_batches is not None else "validate" if self.stage == "validate" else "test")
        with self.evaluating():
            self.call("start")
            self.call("epoch_start")
            self._run_batches(self.source if sanity_batches is None else self.source.first(sanity_batches))
            self.call("epoch_end")
            results = journal.eval_epoch_end()
            self.call("end")
        if within_fit:
            journal.resume("train")
        return results

    def _run_batches(self, source: EvalSource) -> None:
        trainer, plan, journal = self._trainer, self._trainer.plan, self._trainer.journal
        name = f"{self.hooks}_step"
        step, transfer, several = self.module_step(name), trainer.batch_transfer, source.several
        before, after = f"on_{self.hooks}_batch_start", f"on_{self.hooks}_batch_end"
        for dataloader_idx, batches in self.batches(source):
            journal.dataloader_idx = dataloader_idx if several else None
            extra = (dataloader_idx,) if several else ()
            batch_idx = -1
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
                if end is not None:
                    end(output, batch, batch_idx, *extra)
                self.batches_seen += 1
                if journal.has_step_values:
                    journal.eval_batch_end()
                if trainer.attention_wanted:
                    trainer.raise_on_sigterm()
        journal.dataloader_idx = None

    def _check_output(self, output: Any) -> None:
        if isinstance(output, str | bytes | bool | type):
            raise MisconfigurationException(
                f"{type(self._trainer.lightning_module).__name__}.{self.hooks}_step returned {output!r:.80} "
                f"({type(output).__name__}); expected a "
                "tensor, a dict, or None."
            )
