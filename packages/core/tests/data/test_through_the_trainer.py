"""Data as a run reads it: which batches reach the steps, from which loader, in which epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import leyden
from leyden import CombinedLoader, LightningModule, MisconfigurationException
from leyden.data.combined import Mode

Read = tuple[str, int, Any, int]


class Reader(LightningModule):
    """Writes down (stage, epoch, batch, dataloader_idx) of every step; batches are whole numbers in any structure."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.read: list[Read] = []

    def note(self, stage: str, batch: Any, dataloader_idx: int = 0) -> None:
        stage = "sanity" if self.trainer.sanity_checking else stage
        self.read.append((stage, self.current_epoch, plain(batch), dataloader_idx))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.note("train", batch)
        return self.weight * 1.0

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.note("val", batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.note("test", batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.note("predict", batch, dataloader_idx)
        return plain(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def of(self, stage: str) -> list[Any]:
        return [batch for when, _, batch, _ in self.read if when == stage]


def plain(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.tolist()
    if isinstance(batch, dict):
        return {key: plain(value) for key, value in batch.items()}
    return [plain(value) for value in batch] if isinstance(batch, (list, tuple)) else batch


class Numbers(Dataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class Stream(IterableDataset[int]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.size))


def make_trainer(**arguments: Any) -> leyden.Trainer:
    defaults: dict[str, Any] = {"logger": False, "discover_callbacks": False, "accelerator": "cpu", "max_epochs": 1}
    return leyden.Trainer(**(defaults | arguments))


def loader(size: int, batch_size: int = 1, **arguments: Any) -> DataLoader[int]:
    return DataLoader(Numbers(size), batch_size=batch_size, **arguments)


# -- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("min_size", [{"a": [0], "b": [0, 1]}, {"a": [1], "b": [2, 3]}]),
        ("max_size", [{"a": [0], "b": [0, 1]}, {"a": [1], "b": [2, 3]}, {"a": [2], "b": None}]),
        ("max_size_cycle", [{"a": [0], "b": [0, 1]}, {"a": [1], "b": [2, 3]}, {"a": [2], "b": [0, 1]}]),
        ("sequential", [[0], [1], [2], [0, 1], [2, 3]]),
    ],
)
def test_training_reads_several_loaders_in_four_modes(mode: Mode, expected: list[Any]) -> None:
    module, trainer = Reader(), make_trainer(max_epochs=2)
    trainer.fit(module, CombinedLoader({"a": loader(3), "b": loader(4, 2)}, mode))
    assert module.of("train") == expected * 2
    assert trainer.num_training_batches == len(expected)
    assert trainer.global_step == 2 * len(expected)


def test_a_collection_of_loaders_cycles_the_short_ones() -> None:
    module = Reader()
    make_trainer().fit(module, [loader(3), {"x": loader(2)}])
    assert module.of("train") == [[[0], {"x": [0]}], [[1], {"x": [1]}], [[2], {"x": [0]}]]


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 5), (1.0, 5), (1, 1), (3, 3), (9, 5), (0.4, 2), (0.5, 2), (0, 0), (0.0, 0)]
)
def test_training_reads_as_much_as_its_limit(limit: float | None, expected: int) -> None:
    module, trainer = Reader(), make_trainer(limit_train_batches=limit)
    trainer.fit(module, loader(5))
    assert module.of("train") == [[index] for index in range(expected)]
    assert trainer.num_training_batches == expected


def test_a_stream_is_trained_on_to_its_end_or_limit() -> None:
    module, trainer = Reader(), make_trainer(max_epochs=2)
    trainer.fit(module, DataLoader(Stream(3), batch_size=2))
    assert module.of("train") == [[0, 1], [2]] * 2
    assert trainer.num_training_batches == math.inf
    module = Reader()
    make_trainer(limit_train_batches=1).fit(module, DataLoader(Stream(3), batch_size=2))
    assert module.of("train") == [[0, 1]]


def test_batches_of_any_structure_arrive_as_they_are() -> None:
    batches = [{"x": torch.tensor(1), "names": ["a"]}, {"x": torch.tensor(2), "names": ["b"]}]
    module = Reader()
    make_trainer().fit(module, batches)
    assert module.of("train") == [{"x": 1, "names": ["a"]}, {"x": 2, "names": ["b"]}]


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (None, {}, "train_dataloader"),
        ([], {}, "`train_dataloader` gave a list without a single batch"),
        (DataLoader(Stream(0)), {}, "train_dataloader"),
        (loader(3, batch_size=4, drop_last=True), {}, "without a single batch"),
        (Numbers(3), {}, "wrap it, `DataLoader"),
        (loader(3), {"limit_train_batches": 0.1}, "limit_train_batches=0.1"),
        (DataLoader(Stream(3)), {"limit_train_batches": 0.5}, "length is unknown"),
        (DataLoader(Stream(3)), {"overfit_batches": 0.5}, "overfit_batches=0.5"),
        (iter([[1], [2]]), {"max_epochs": 2}, "read to its end"),
        (CombinedLoader([loader(2), []], "max_size_cycle"), {}, "cannot start loader 1"),
    ],
    ids=[
        "none",
        "empty list",
        "empty stream",
        "dropped",
        "dataset",
        "fraction",
        "fraction of stream",
        "overfit",
        "used up",
        "member",
    ],
)
def test_data_that_cannot_be_trained_on_is_an_error_that_names_it(
    data: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        make_trainer(**arguments).fit(Reader(), data)


class Epochs(torch.utils.data.SequentialSampler):
    def __init__(self, source: Numbers) -> None:
        super().__init__(source)
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.told.append(epoch)


def test_samplers_are_told_each_epoch() -> None:
    one, other = Epochs(Numbers(2)), Epochs(Numbers(2))
    loaders = {"a": DataLoader(Numbers(2), sampler=one), "b": DataLoader(Numbers(2), sampler=other)}
    make_trainer(max_epochs=3).fit(Reader(), loaders)
    assert (one.told, other.told) == ([0, 1, 2], [0, 1, 2])


class Reloading(Reader):
    """Gives a new loader each time it is asked: its batch says how often that was."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = {"train": 0, "val": 0}

    def ask(self, stage: str) -> list[Tensor]:
        self.asked[stage] += 1
        return [torch.tensor(self.asked[stage])] * self.asked[stage]

    def train_dataloader(self) -> Any:
        return self.ask("train")

    def val_dataloader(self) -> Any:
        return self.ask("val")


def test_loaders_are_asked_for_once() -> None:
    module = Reloading()
    make_trainer(max_epochs=3).fit(module)
    assert module.asked == {"train": 1, "val": 1}
    assert module.of("train") == [1, 1, 1]


@pytest.mark.parametrize(
    ("every", "asked"), [(1, [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]), (2, [1, 1, 2, 2, 2, 2]), (3, [1, 1, 1, 2, 2])]
)
def test_loaders_are_asked_for_again_every_n_epochs(every: int, asked: list[int]) -> None:
    module = Reloading()
    make_trainer(max_epochs=4, reload_dataloaders_every_n_epochs=every, num_sanity_val_steps=0).fit(module)
    assert module.of("train") == asked
    assert module.of("val") == asked


def test_overfitting_trains_and_validates_on_the_same_batches() -> None:
    module = Reader()
    with pytest.warns(UserWarning, match="`train_dataloader` is read without shuffling anew"):
        make_trainer(max_epochs=2, overfit_batches=2).fit(module, loader(8, 2, shuffle=True), loader(8, 2))
    assert module.of("train") == [[0, 1], [2, 3]] * 2
    assert module.of("val") == [[0, 1], [2, 3]] * 2


# -- evaluation ----------------------------------------------------------------------------------------------------


def test_validation_reads_each_loader_in_turn() -> None:
    module, trainer = Reader(), make_trainer(num_sanity_val_steps=1)
    trainer.fit(module, loader(1), [loader(2), loader(3)])
    assert module.read == [
        ("sanity", 0, [0], 0),
        ("sanity", 0, [0], 1),
        ("train", 0, [0], 0),
        ("val", 0, [0], 0),
        ("val", 0, [1], 0),
        ("val", 0, [0], 1),
        ("val", 0, [1], 1),
        ("val", 0, [2], 1),
    ]
    assert trainer.num_val_batches == [2, 3]


@pytest.mark.parametrize("entry", ["validate", "test"])
@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, [4, 6]), (1.0, [4, 6]), (1, [1, 1]), (0.5, [2, 3]), (5, [4, 5])],
)
def test_limits_hold_for_each_evaluation_loader(entry: str, limit: float | None, expected: list[int]) -> None:
    stage = "val" if entry == "validate" else "test"
    module, trainer = Reader(), make_trainer(**{f"limit_{stage}_batches": limit})
    getattr(trainer, entry)(module, [loader(4), loader(6)], verbose=False)
    assert [(batch, index) for _, _, batch, index in module.read] == [
        ([position], index) for index, count in enumerate(expected) for position in range(count)
    ]
    assert getattr(trainer, f"num_{stage}_batches") == expected


def test_predictions_come_in_one_list_per_loader() -> None:
    module = Reader()
    assert make_trainer().predict(module, loader(3)) == [[0], [1], [2]]
    several = make_trainer(limit_predict_batches=2).predict(module, {"a": loader(3), "b": DataLoader(Stream(5))})
    assert several == [[[0], [1]], [[0], [1]]]
    assert make_trainer().predict(module, CombinedLoader([loader(1), loader(2)], "max_size")) == [
        [[0], [0]],
        [None, [1]],
    ]


def test_evaluating_a_fraction_of_a_batch_or_nothing_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"limit_val_batches=0\.1"):
        make_trainer(limit_val_batches=0.1).validate(Reader(), loader(3))
    with pytest.raises(
        MisconfigurationException, match=r"`test_dataloader\[1\]` gave a DataLoader without a single batch"
    ):
        make_trainer().test(Reader(), [loader(3), loader(0)])
