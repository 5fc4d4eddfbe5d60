"""What is a loader, how long it is, how much of it is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from leyden.data.loaders import (
    check_loader,
    flatten_loaders,
    is_collection,
    limit_batches,
    loader_length,
    map_loaders,
    seed_workers,
    set_epoch,
)
from leyden.errors import MisconfigurationException
from leyden.seed import worker_init_fn


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


class SizedStream(Stream):
    def __len__(self) -> int:
        return 10


class Length:
    """Iterable whose __len__ does what it is told."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result  # type: ignore[no-any-return]


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("loader", "length"),
    [
        (DataLoader(Numbers(), batch_size=4), 3),
        (DataLoader(Numbers(), batch_size=4, drop_last=True), 2),
        (DataLoader(Stream(), batch_size=4), None),
        (DataLoader(SizedStream(), batch_size=4), 3),
        ([1, 2], 2),
        (generator(), None),
        (Length(0), 0),
        (Length(TypeError("unknown")), None),
        (Length(NotImplementedError()), None),
        (Length(2**70), None),
        (Length(math.inf), None),
    ],
)
def test_length(loader: object, length: int | None) -> None:
    assert loader_length(loader) == length


def test_an_error_in_len_is_raised_with_a_note() -> None:
    with pytest.raises(RuntimeError, match="no connection") as caught:
        loader_length(Length(RuntimeError("no connection")))
    assert caught.value.__notes__ == ["raised by len() of a Length that Leyden asked for its number of batches"]


@pytest.mark.parametrize(
    ("limit", "length", "batches"),
    [
        (None, 7, 7), (None, None, math.inf), (None, 0, 0),
        (1.0, 7, 7), (1.0, None, math.inf), (1.0, math.inf, math.inf),
        (1, 7, 1), (1, None, 1), (0, 7, 0), (0, None, 0), (0.0, 7, 0), (0.0, None, 0),
        (9, 7, 7), (9, None, 9), (math.inf, 7, 7), (math.inf, None, math.inf),
        (0.5, 7, 3), (0.29, 100, 29), (0.1, 10, 1), (0.3, 10, 3), (0.5, 0, 0), (0.999, 10, 9),
    ],
)  # fmt: skip
def test_limits(limit: float | None, length: float | None, batches: float) -> None:
    result = limit_batches(limit, length, "limit_val_batches")
    assert result == batches
    assert type(result) is (float if batches == math.inf else int)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_fraction_made_from_whole_batches_gives_these(part: int, whole: int) -> None:
    part = min(part, whole)
    assert limit_batches(part / whole, whole, "limit_train_batches") == part


def test_a_fraction_of_an_unknown_length_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(limit_test_batches=0.5\).*length is unknown"):
        limit_batches(0.5, None, "limit_test_batches")


def test_a_fraction_below_one_batch_names_one_that_works() -> None:
    with pytest.raises(MisconfigurationException, match=r"limit_val_batches=0\.1 or more") as caught:
        limit_batches(0.05, 10, "limit_val_batches")
    assert "loader with 10 batches comes to less than one batch" in str(caught.value)


@given(st.integers(2, 10_000))
def test_the_fraction_an_error_names_works(length: int) -> None:
    with pytest.raises(MisconfigurationException) as caught:
        limit_batches(0.5 / length, length, "limit_val_batches")
    named = float(str(caught.value).split("Use limit_val_batches=")[1].split(" ")[0])
    assert limit_batches(named, length, "limit_val_batches") >= 1


@pytest.mark.parametrize("limit", [-1, -0.5, 1.5, math.nan])
def test_a_limit_out_of_range_is_an_error(limit: float) -> None:
    with pytest.raises(MisconfigurationException, match="expected a number of batches"):
        limit_batches(limit, 10, "limit_train_batches")


BATCH = torch.ones(2)


@pytest.mark.parametrize(
    ("value", "collection"),
    [
        ([range(2), range(3)], True), ([DataLoader(Numbers())], True), ((range(2),), True),
        ({"a": range(2)}, True), ({"a": [BATCH]}, True), ([[BATCH], DataLoader(Numbers())], True),
        ([generator()], True), ([range(2), {"x": BATCH}], True),
        ([BATCH, BATCH], False), ([(BATCH, BATCH)], False), ([[BATCH, 1]], False), ([{"x": BATCH}], False),
        (["a", "b"], False), ([np.ones(2)], False), (range(3), False), (DataLoader(Numbers()), False), ([], False),
        ([1, 2, 3], False), ([None], False),
    ],
)  # fmt: skip
def test_a_list_of_batches_is_a_loader_and_a_list_of_loaders_is_not(value: object, collection: bool) -> None:
    assert is_collection(value) is collection


def test_flattening_and_mapping_keep_the_shape() -> None:
    batches = [BATCH, BATCH]
    loaders = {"a": range(2), "b": [range(3), batches]}
    members, rebuild = flatten_loaders(loaders)
    assert members == [range(2), range(3), batches]
    assert members[2] is batches
    assert rebuild([1, 2, 3]) == {"a": 1, "b": [2, 3]}
    assert map_loaders(lambda loader: loader, loaders) is loaders
    assert map_loaders(len, loaders) == {"a": 2, "b": [3, 2]}
    assert map_loaders(len, batches) == 2


@pytest.mark.parametrize(
    "good", [[BATCH], range(2), {"a": range(2)}, generator(), DataLoader(Numbers()), Stream(), [range(2), (range(2),)]]
)
def test_what_can_be_read_is_returned(good: object) -> None:
    assert check_loader(good, "train_dataloader") is good


class Handle:
    """Not iterable, not callable."""

    def __repr__(self) -> str:
        return "Handle(" + "x" * 100 + ")"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "`val_dataloader` gave None instead of a loader"),
        ({}, "which holds no loader"),
        ({"a": {}}, "which holds no loader"),
        (Numbers(), r"wrap it, `DataLoader\(dataset, batch_size=…\)`"),
        (TensorDataset(BATCH), r"wrap it, `DataLoader\(dataset"),
        (BATCH, r"is a Tensor of shape \(2,\), which cannot be read as batches"),
        ("data.csv", r"is 'data.csv' \(str\)"),
        (np.ones(1), r"\(ndarray\), which cannot be read"),
        (lambda: range(2), "It is a function: call it"),
        (DataLoader, r"It is the class: give an instance, DataLoader\(\.\.\.\)\."),
        (DataLoader, r"\(type\), which cannot be read"),
        (Handle(), r"Handle\(xxx.*\.\.\. \(Handle\)"),
        ([range(2), None], r"`val_dataloader\[1\]` is None"),
        ({"a": range(2), "b": [range(2), 3]}, r"`val_dataloader\['b'\]\[1\]` is 3 \(int\)"),
        ({"a": BATCH}, r"`val_dataloader\['a'\]` is a Tensor"),
    ],
)
def test_what_cannot_be_read_is_named(bad: object, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message) as caught:
        check_loader(bad, "val_dataloader")
    assert "val_dataloader" in str(caught.value)


class WithEpoch(SequentialSampler):
    epoch: int | None = None
    calls = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.calls += 1


class EpochStream(Stream):
    epoch: int | None = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def test_the_epoch_reaches_samplers_and_datasets_once() -> None:
    sampler = WithEpoch(Numbers())
    set_epoch(DataLoader(Numbers(), sampler=sampler), 3)
    assert (sampler.epoch, sampler.calls) == (3, 1)

    nested = WithEpoch(Numbers())
    set_epoch(DataLoader(Numbers(), batch_sampler=BatchSampler(nested, 2, False)), 4)
    assert (nested.epoch, nested.calls) == (4, 1)

    stream = EpochStream()
    set_epoch(DataLoader(stream), 5)
    assert stream.epoch == 5
    set_epoch(range(3), 6)  # has nothing to tell it to


def test_workers_are_seeded_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(**arguments: Any) -> DataLoader[int]:
        return DataLoader(Numbers(), **arguments)

    def own(worker_id: int) -> None:
        return None

    asked, kept, without = make(num_workers=1), make(num_workers=1, worker_init_fn=own), make()
    seed_workers(asked)
    assert asked.worker_init_fn is None, "nobody asked"
    monkeypatch.setenv("LEYDEN_SEED_WORKERS", "1")
    for loader in (asked, kept, without, [1, 2]):
        seed_workers(loader)
    assert isinstance(asked.worker_init_fn, partial)
    assert (asked.worker_init_fn.func, asked.worker_init_fn.keywords) == (worker_init_fn, {"rank": 0})
    assert kept.worker_init_fn is own
    assert without.worker_init_fn is None
