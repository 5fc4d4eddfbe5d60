"""The prediction loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.loops.evaluation import GradientFreeLoop
from leyden.types import PREDICT_OUTPUT

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["PredictionLoop"]


class PredictionLoop(GradientFreeLoop):
    """Runs ``predict_step`` over the dataloaders and gathers what it returns."""

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer, "predict")

    def run(self, return_predictions: bool = True) -> PREDICT_OUTPUT | None:
        """Return the predictions per batch, in a list per dataloader when there are several; None if not wanted."""
        trainer, plan = self._trainer, self._trainer.plan
        assert self.source is not None
        if not any(self.source.num_batches):
            return [] if return_predictions else None
        keeps = return_predictions or plan.wants_predict_outputs
        predictions: list[list[Any]] = [[] for _ in self.source.num_batches]
        with self.evaluating():
            self.call("start")
            self.call("epoch_start")
            self._run_batches(predictions if keeps else None)
            plan.predict_outputs[:] = predictions
            self.call("epoch_end")
            self.call("end")
        plan.predict_outputs.clear()
        trainer.journal.dataloader_idx = None
        if not return_predictions:
            return None
        return predictions if self.source.several else predictions[0]

    def _run_batches(self, predictions: list[list[Any]] | None) -> None:
        trainer, plan, journal = self._trainer, self._trainer.plan, self._trainer.journal
        assert self.source is not None
        step, transfer, several = self.module_step("predict_step"), trainer.batch_transfer, self.source.several
        for dataloader_idx, batches in self.batches(self.source):
            extra = (dataloader_idx,) if several else ()
            batch_idx = -1
            for batch in batches:
                batch_idx += 1
                self.batch_idx = batch_idx
                if transfer is not None:
                    batch = transfer(batch, dataloader_idx)
                if plan.on_predict_batch_start is not None:
                    plan.on_predict_batch_start(batch, batch_idx, *extra)
                journal.hook = "predict_step"
                output = step(batch, batch_idx, *extra)
                if plan.on_predict_batch_end is not None:
                    plan.on_predict_batch_end(output, batch, batch_idx, *extra)
                if predictions is not None:
                    predictions[dataloader_idx].append(output)
                self.batches_seen += 1
                if trainer.attention_wanted:
                    trainer.raise_on_sigterm()
