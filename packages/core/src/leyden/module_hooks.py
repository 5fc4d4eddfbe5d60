"""The hooks a module may override, each doing nothing, or the plain thing, by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException
from leyden.module_attachment import AttachedModule
from leyden.types import STEP_OUTPUT

if TYPE_CHECKING:
    from leyden.callback import Callback

__all__ = ["DataHooks", "ModuleHooks"]


class DataHooks:
    """Hooks that bring data, shared by ``LightningModule`` and ``LightningDataModule``."""

    def prepare_data(self) -> None:
        """Download and write to disk. Runs in one process only, before `setup`: assign nothing to `self` here."""

    def setup(self, stage: str) -> None:
        """Called in every process when an entry point begins; `stage` is "fit", "validate", "test" or "predict"."""

    def teardown(self, stage: str) -> None:
        """Called in every process when an entry point ends, also after an exception."""

    def train_dataloader(self) -> Any:
        """Return what training iterates over: one iterable, or a list, dict or nesting of them."""
        raise _no_loader(self, "train_dataloader", "fit")

    def val_dataloader(self) -> Any:
        """Return what validation iterates over: one iterable or a list of them."""
        raise _no_loader(self, "val_dataloader", "validate")

    def test_dataloader(self) -> Any:
        """Return what ``Trainer.test`` iterates over: one iterable or a list of them."""
        raise _no_loader(self, "test_dataloader", "test")

    def predict_dataloader(self) -> Any:
        """Return what ``Trainer.predict`` iterates over: one iterable or a list of them."""
        raise _no_loader(self, "predict_dataloader", "predict")

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch to be moved to the device; it is still where the loader made it."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch on `device`: tensors in any nesting, and objects with a ``to`` method, are moved."""
        from leyden.data.transfer import move_to_device

        return move_to_device(batch, device)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Return the batch that the step gets; it is on the device."""
        return batch


class ModuleHooks(DataHooks, AttachedModule):
    """Hooks of a run, in the order in which a run calls them. Callbacks have those of the same name, called first."""

    def configure_model(self) -> None:
        """Build large layers here rather than in ``__init__``. May run more than once: build only what is not there."""

    def configure_callbacks(self) -> list[Callback] | Callback:
        """Return callbacks this module brings; one of a type that the user's list has too replaces it."""
        return []

    def on_fit_start(self) -> None:
        """Called when fit begins, after `setup`, with the weights on their device."""

    def on_fit_end(self) -> None:
        """Called when fit ends."""

    def on_train_start(self) -> None:
        """Called before the first epoch, after the sanity check."""

    def on_train_end(self) -> None:
        """Called after the last epoch."""

    def on_train_epoch_start(self) -> None:
        """Called at the start of each training epoch."""

    def on_train_epoch_end(self) -> None:
        """Called at the end of each training epoch, after its validation."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Called before a training step; return -1 to skip the rest of the epoch."""
        return None

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int) -> None:
        """Called after a training step; `outputs` is its dict with a detached ``loss``, ``{}`` where it gave None."""

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        """Called before gradients are zeroed."""

    def on_before_backward(self, loss: Tensor) -> None:
        """Called before ``loss.backward()``."""

    def on_after_backward(self) -> None:
        """Called after ``loss.backward()``; under 16-mixed the gradients are still scaled."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Called before ``optimizer.step()``; gradients are unscaled and not yet clipped."""

    def on_validation_start(self) -> None:
        """Called when validation begins, also in the sanity check."""

    def on_validation_end(self) -> None:
        """Called when validation ends."""

    def on_validation_epoch_start(self) -> None:
        """Called before the first validation batch."""

    def on_validation_epoch_end(self) -> None:
        """Called after the last validation batch."""

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Called before a validation step."""

    def on_validation_batch_end(
        self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Called after a validation step, with what it returned."""

    def on_validation_model_eval(self) -> None:
        """Put the module into evaluation mode before validation."""
        self.eval()

    def on_validation_model_train(self) -> None:
        """Put the module into training mode after validation."""
        self.train()

    def on_validation_model_zero_grad(self) -> None:
        """Free gradients before validation, which gives its memory to the evaluation batches."""
        self.zero_grad()

    def on_test_start(self) -> None:
        """Called when testing begins."""

    def on_test_end(self) -> None:
        """Called when testing ends."""

    def on_test_epoch_start(self) -> None:
        """Called before the first test batch."""

    def on_test_epoch_end(self) -> None:
        """Called after the last test batch."""

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Called before a test step."""

    def on_test_batch_end(self, outputs: STEP_OUTPUT, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Called after a test step, with what it returned."""

    def on_test_model_eval(self) -> None:
        """Put the module into evaluation mode before testing."""
        self.eval()

    def on_test_model_train(self) -> None:
        """Put the module into training mode after testing."""
        self.train()

    def on_predict_start(self) -> None:
        """Called when predicting begins."""

    def on_predict_end(self) -> None:
        """Called when predicting ends."""

    def on_predict_epoch_start(self) -> None:
        """Called before the first batch to predict."""

    def on_predict_epoch_end(self) -> None:
        """Called after the last batch to predict."""

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Called before a predict step."""

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Called after a predict step, with what it returned."""

    def on_predict_model_eval(self) -> None:
        """Put the module into evaluation mode before predicting."""
        self.eval()

    def on_predict_model_train(self) -> None:
        """Put the module into training mode after predicting."""
        self.train()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called with a checkpoint about to be written; change it in place."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called with a checkpoint that was read, before its weights are restored."""


def _no_loader(owner: DataHooks, hook: str, entry_point: str) -> MisconfigurationException:
    name = type(owner).__qualname__
    return MisconfigurationException(
        f"{name} has no {hook}. Define {name}.{hook}, or give the loader to trainer.{entry_point}."
    )
