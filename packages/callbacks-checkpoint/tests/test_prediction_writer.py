"""BasePredictionWriter: what it is given, when, and with which indices."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from leyden import LightningModule, Trainer
from leyden.callbacks import BasePredictionWriter as FromTheFront
from leyden.errors import MisconfigurationException
from leyden.runtime.strategy import Strategy
from leyden_checkpoint import BasePredictionWriter


class Tenfold(LightningModule):
    """Predicts ten times the item, which is its index."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[weakref.ref[Tensor]] = []

    def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        output = batch * 10
        self.given.append(weakref.ref(output))
        return output

    def alive(self) -> int:
        gc.collect()
        return sum(one() is not None for one in self.given)


class Writer(BasePredictionWriter):
    """Keeps what it is given, as plain lists."""

    def __init__(self, write_interval: str = "batch") -> None:
        super().__init__(write_interval)
        self.batches: list[Any] = []
        self.epochs: list[Any] = []
        self.alive: list[int] = []

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
        assert torch.equal(prediction, batch * 10)
        self.batches.append((prediction.tolist(), batch_indices, batch_idx, dataloader_idx))

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        self.epochs.append((plain(predictions), list(batch_indices)))
        assert isinstance(pl_module, Tenfold)
        self.alive.append(pl_module.alive())


class OnlyEpoch(BasePredictionWriter):
    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        raise AssertionError("not called here")


def plain(predictions: Any) -> Any:
    return predictions.tolist() if isinstance(predictions, Tensor) else [plain(one) for one in predictions]


def items(count: int, **arguments: Any) -> Any:
    return DataLoader(torch.arange(count), **{"batch_size": 2, **arguments})  # type: ignore[arg-type]


def predict(writer: BasePredictionWriter, loaders: Any, module: LightningModule | None = None, **arguments: Any) -> Any:
    returned = arguments.pop("return_predictions", None)
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, callbacks=writer, **arguments)
    return trainer.predict(module or Tenfold(), loaders, return_predictions=returned)


BATCHES = [([0, 10], [0, 1], 0, 0), ([20, 30], [2, 3], 1, 0), ([40], [4], 2, 0)]
EPOCH = ([[0, 10], [20, 30], [40]], [[[0, 1], [2, 3], [4]]])


@pytest.mark.parametrize("return_predictions", [None, True, False])
@pytest.mark.parametrize(
    ("interval", "batches", "epochs"),
    [("batch", BATCHES, []), ("epoch", [], [EPOCH]), ("batch_and_epoch", BATCHES, [EPOCH])],
)
def test_each_interval_writes_its_own(
    interval: str, batches: list[Any], epochs: list[Any], return_predictions: bool | None
) -> None:
    writer = Writer(interval)
    returned = predict(writer, items(5), return_predictions=return_predictions)
    assert (writer.batches, writer.epochs) == (batches, epochs)
    assert (None if returned is None else plain(returned)) == (None if return_predictions is False else EPOCH[0])


def test_several_loaders() -> None:
    writer = Writer("batch_and_epoch")
    predict(writer, [items(3), items(2)])
    assert writer.batches == [([0, 10], [0, 1], 0, 0), ([20], [2], 1, 0), ([0, 10], [0, 1], 0, 1)]
    assert writer.epochs == [([[[0, 10], [20]], [[0, 10]]], [[[0, 1], [2]], [[0, 1]]])]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_indices_are_those_of_the_items_however_they_come(workers: int) -> None:
    writer = Writer("batch_and_epoch")
    predict(writer, items(9, shuffle=True, num_workers=workers), limit_predict_batches=3)
    assert [values for values, *_ in writer.batches] == [[10 * i for i in indices] for _, indices, *_ in writer.batches]
    assert writer.epochs[0][1] == [[indices for _, indices, *_ in writer.batches]]
    assert len(writer.batches) == 3


class Drawn:
    """A batch sampler of one's own."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[3, 1], [0]])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("arguments", "indices"),
    [
        ({"sampler": DistributedSampler(range(5), 2, 1, shuffle=False)}, [[1, 3], [0]]),  # type: ignore[arg-type]
        ({"sampler": torch.tensor([4, 2, 0])}, [[4, 2], [0]]),
        ({"batch_size": 1, "batch_sampler": Drawn()}, [[3, 1], [0]]),
        ({"batch_size": None, "sampler": [2, 4]}, [[2], [4]]),
        ({"drop_last": True}, [[0, 1], [2, 3]]),
    ],
)
def test_the_indices_are_those_of_the_items_whatever_draws_them(
    workers: int, arguments: dict[str, Any], indices: list[list[int]]
) -> None:
    writer = Writer("batch_and_epoch")
    predict(writer, [items(5, num_workers=workers, **arguments), items(2)])
    assert writer.epochs[0][1] == [indices, [[0, 1]]]
    assert [given for _, given, *_ in writer.batches] == [*indices, [0, 1]]
    for values, given, *_ in writer.batches:
        assert torch.tensor(values).flatten().tolist() == [10 * index for index in given]
    assert all(type(index) is int for _, given, *_ in writer.batches for index in given)


def test_each_process_writes_its_own() -> None:
    class Second(Strategy):
        global_rank, world_size = 1, 2

    writer = Writer("batch_and_epoch")
    predict(writer, items(5), strategy=Second(torch.device("cpu")))
    assert (writer.batches, writer.epochs) == (BATCHES, [EPOCH])


def test_what_cannot_be_written_ends_the_pass() -> None:
    class Full(Writer):
        def write_on_batch_end(self, *args: Any) -> None:
            raise OSError(28, "No space left on device")

    writer = Full("batch_and_epoch")
    with pytest.raises(OSError, match="No space left"):
        predict(writer, items(5))
    assert writer.epochs == []


def test_data_without_indices_give_an_empty_list_and_a_warning() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    writer = Writer("batch_and_epoch")
    with pytest.warns(UserWarning, match="cannot be told of DataLoader: batch_indices will be an empty list"):
        predict(writer, DataLoader(Stream(), batch_size=2))
    assert writer.batches == [([0, 10], [], 0, 0), ([20], [], 1, 0)]
    assert writer.epochs == [([[0, 10], [20]], [[]])]


@pytest.mark.parametrize(("interval", "alive"), [("batch", 0), ("epoch", 5)])
def test_only_an_epoch_s_writer_keeps_predictions_and_no_longer_than_the_epoch(interval: str, alive: int) -> None:
    class Counting(Writer):
        def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, Tenfold)
            self.alive.append(pl_module.alive())

    writer, module = Counting(interval), Tenfold()
    assert predict(writer, items(5, batch_size=1), module, return_predictions=False) is None
    assert writer.alive == [alive]
    assert module.alive() <= 1


def test_a_second_pass_begins_anew() -> None:
    writer = Writer("epoch")
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, callbacks=writer)
    for _ in range(2):
        trainer.predict(Tenfold(), items(5))
    assert writer.epochs == [EPOCH, EPOCH]


def test_nothing_is_written_of_a_training() -> None:
    class Trains(Tenfold):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss: Tensor = self.layer(batch.float().unsqueeze(1)).sum()
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    writer = Writer("batch_and_epoch")
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, discover_callbacks=False, callbacks=writer)
    trainer.fit(Trains(), items(5))
    assert (writer.batches, writer.epochs) == ([], [])


def test_an_interval_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(MisconfigurationException) as error:
        Writer("batches")
    assert str(error.value) == (
        "Writer(write_interval='batches'): expected one of 'batch', 'epoch', 'batch_and_epoch'. Did you mean 'batch'?"
    )


@pytest.mark.parametrize("interval", ["batch", "batch_and_epoch"])
def test_a_method_that_the_interval_needs_must_be_there(interval: str) -> None:
    with pytest.raises(MisconfigurationException, match="writes in write_on_batch_end, which it does not define"):
        OnlyEpoch(interval)
    assert OnlyEpoch("epoch").interval.on_epoch


def test_the_front_knows_it() -> None:
    assert FromTheFront is BasePredictionWriter
