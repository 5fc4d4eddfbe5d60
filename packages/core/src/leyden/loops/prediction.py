"""The prediction loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from leyden.data.indices import IndexRecorder, recorder_of
from leyden.loops.evaluation import GradientFreeLoop
from leyden.loops.sources import request_eval_source
from leyden.rank_zero import rank_zero_warn
from leyden.types import PREDICT_OUTPUT

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["PredictionLoop"]


class PredictionLoop(GradientFreeLoop):
    """Runs ``predict_step`` over the dataloaders and gathers what it returns.

    Attributes:
        predictions: what is gathered, per batch, in a list per dataloader when there are several; empty where nobody
            wants it: neither the caller of ``predict`` nor a callback with `wants_predictions`.
        current_batch_indices: which items of the dataset the batch at hand has; an empty list where nobody can tell or
            no callback has `wants_batch_indices`.
        epoch_batch_indices: those of all batches, in a list per dataloader; kept where callbacks want both.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer, "predict")
        self._predictions: list[list[Any]] = []
        self.current_batch_indices: list[Any] = []
        self.epoch_batch_indices: list[list[list[Any]]] = []
        self._recorders: list[IndexRecorder | None] = []
        self._keeps_indices = False

    @property
    def predictions(self) -> list[Any]:
        """What is gathered; see the class."""
        return self._predictions[0] if len(self._predictions) == 1 else self._predictions

    def setup_data(self) -> None:
        """Ask for the dataloaders, with their indices where a callback wants them."""
        trainer = self._trainer
        wanted = any(callback.wants_batch_indices for callback in trainer.callbacks)
        self.source = request_eval_source(trainer, self.stage, record_indices=wanted)
        self._recorders = [recorder_of(loader) for loader in self.source.loaders] if wanted else []
        unknown = [type(loader).__name__ for loader in self.source.loaders if recorder_of(loader) is None]
        if wanted and unknown:
            rank_zero_warn(
                f"A callback asks which items each predict batch has, which cannot be told of {', '.join(unknown)}: "
                "batch_indices will be an empty list there. A DataLoader over a map-style dataset tells it."
            )

    def run(self, return_predictions: bool = True) -> PREDICT_OUTPUT | None:
        """Return the predictions per batch, in a list per dataloader when there are several; None if not wanted."""
        assert self.source is not None
        if not self._has_batches():
            return [] if return_predictions else None
        callbacks, several = self._trainer.callbacks, self.source.several
        wanted = any(callback.wants_predictions for callback in callbacks)
        keeps = return_predictions or wanted or self._trainer.plan.wants_predict_outputs
        self._keeps_indices = wanted and bool(self._recorders)
        predictions: list[list[Any]] = [[] for _ in self.source.num_batches]
        self._predictions = predictions if keeps else []
        self.epoch_batch_indices = [[] for _ in self._recorders] if self._keeps_indices else []
        try:
            self._run_pass(predictions if keeps else None)
        finally:
            self._predictions, self.epoch_batch_indices, self.current_batch_indices = [], [], []
        if not return_predictions:
            return None
        return predictions if several else predictions[0]

    def _run_pass(self, predictions: list[list[Any]] | None) -> None:
        trainer, plan = self._trainer, self._trainer.plan
        assert self.source is not None
        with self.evaluating():
            self.call("start")
            self.call("epoch_start")
            with trainer.strategy.evaluating(trainer.lightning_module, self.source.num_batches):
                self._run_batches(predictions)
            plan.predict_outputs[:] = predictions or []
            self.call("epoch_end")
            self.call("end")
        plan.predict_outputs.clear()
        self._trainer.journal.dataloader_idx = None

    def _with_indices(self, batches: Iterator[Any], dataloader_idx: int) -> Iterator[Any]:
        """Give the batches, each after its indices were put where callbacks find them."""
        recorder = self._recorders[dataloader_idx]
        for batch in batches:
            if recorder is not None:
                self.current_batch_indices = recorder.take()
                if self._keeps_indices:
                    self.epoch_batch_indices[dataloader_idx].append(self.current_batch_indices)
            yield batch
        self.current_batch_indices = []

    def _run_batches(self, predictions: list[list[Any]] | None) -> None:
        trainer, plan, journal = self._trainer, self._trainer.plan, self._trainer.journal
        assert self.source is not None
        step, transfer, several = self.module_step("predict_step"), trainer.batch_transfer, self.source.several
        for dataloader_idx, batches in self.batches(self.source):
            extra = (dataloader_idx,) if several else ()
            batch_idx = -1
            self.dataloader_idx, self.batches_done = dataloader_idx, 0
            if self._recorders:
                batches = self._with_indices(batches, dataloader_idx)
            for batch in batches:
                batch_idx += 1
                self.batch_idx = batch_idx
                if transfer is not None:
                    batch = transfer(batch, dataloader_idx)
                if plan.on_predict_batch_start is not None:
                    plan.on_predict_batch_start(batch, batch_idx, *extra)
                journal.hook = "predict_step"
                output = step(batch, batch_idx, *extra)
                self.batches_done = batch_idx + 1
                if plan.on_predict_batch_end is not None:
                    plan.on_predict_batch_end(output, batch, batch_idx, *extra)
                if predictions is not None:
                    predictions[dataloader_idx].append(output)
                self.batches_seen += 1
                if trainer.attention_wanted:
                    trainer.raise_on_sigterm()
