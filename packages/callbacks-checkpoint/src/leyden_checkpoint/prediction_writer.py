"""BasePredictionWriter: predictions go to the disk as they come, or all together."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["BasePredictionWriter", "WriteInterval"]


_ON_BATCH, _ON_EPOCH = "write_on_batch_end", "write_on_epoch_end"


class WriteInterval(StrEnum):
    """When predictions are written.

    Example:
        >>> [interval.value for interval in WriteInterval if interval.on_epoch]
        ['epoch', 'batch_and_epoch']
    """

    BATCH = "batch"
    EPOCH = "epoch"
    BATCH_AND_EPOCH = "batch_and_epoch"

    @property
    def on_batch(self) -> bool:
        """After each batch."""
        return self is not WriteInterval.EPOCH

    @property
    def on_epoch(self) -> bool:
        """After the pass over all data."""
        return self is not WriteInterval.BATCH


class BasePredictionWriter(Callback):
    """Writes what ``trainer.predict`` gives: derive from it, and define the method of your interval.

    `write_interval` is ``"batch"`` (`write_on_batch_end`), ``"epoch"`` (`write_on_epoch_end`) or
    ``"batch_and_epoch"`` (both). With ``"batch"`` and ``trainer.predict(..., return_predictions=False)`` no prediction
    is kept; an epoch's are kept until they are written, whether they are returned or not.

    `batch_indices` say which items of the dataset the predictions are of, also with shuffling, workers, and a sampler
    that deals them out to several processes. They are an empty list where the data have no indices: an
    ``IterableDataset``, or batches that come from no ``DataLoader``.

    With several processes each writes its own predictions: put ``trainer.global_rank`` into the name of the file.

    Raises:
        MisconfigurationException: at once, an interval that does not exist, or one whose method is not defined.

    Example:
        >>> import torch
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> class ToFiles(BasePredictionWriter):
        ...     def write_on_batch_end(
        ...         self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx
        ...     ):
        ...         torch.save(dict(zip(batch_indices, prediction)), f"{batch_idx}.pt")
        >>> trainer = Trainer(logger=False, callbacks=ToFiles("batch"), discover_callbacks=False)
        >>> trainer.predict(BoringModule(), return_predictions=False)
        >>> list(torch.load("1.pt"))
        [2, 3]
    """

    def __init__(self, write_interval: str = "batch") -> None:
        super().__init__()
        name, intervals = type(self).__name__, [interval.value for interval in WriteInterval]
        if write_interval not in intervals:
            raise MisconfigurationException(
                f"{name}(write_interval={write_interval!r}): expected one of {', '.join(map(repr, intervals))}."
                f"{did_you_mean(str(write_interval), intervals)}"
            )
        self.interval = WriteInterval(write_interval)
        for wanted, method in ((self.interval.on_batch, _ON_BATCH), (self.interval.on_epoch, _ON_EPOCH)):
            if wanted and getattr(type(self), method) is getattr(BasePredictionWriter, method):
                other = "epoch" if method == _ON_BATCH else "batch"
                raise MisconfigurationException(
                    f"{name}(write_interval={write_interval!r}) writes in {method}, which it does not define: "
                    f"define it, or give write_interval={other!r}."
                )

    @property
    def wants_predictions(self) -> bool:  # type: ignore[override]  # asked for, never set
        """Whether the predictions of the whole pass are to be kept."""
        return self.interval.on_epoch

    wants_batch_indices = True

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the `prediction` of one batch, which is of these items of the dataset."""
        raise NotImplementedError

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write all `predictions`: per batch, in a list per dataloader where there are several.

        `batch_indices` are per batch too, always in a list per dataloader.
        """
        raise NotImplementedError

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Have the batch written, if the interval says so."""
        if self.interval.on_batch:
            indices = trainer.predict_loop.current_batch_indices
            self.write_on_batch_end(trainer, pl_module, outputs, indices, batch, batch_idx, dataloader_idx)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have all predictions written, if the interval says so."""
        if self.interval.on_epoch:
            loop = trainer.predict_loop
            self.write_on_epoch_end(trainer, pl_module, loop.predictions, loop.epoch_batch_indices)
