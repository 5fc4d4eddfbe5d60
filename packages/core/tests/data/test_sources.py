"""What a stage reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from leyden.data import CombinedLoader, EvalSource, TrainSource
from leyden.data.samplers import distributed_loader
from leyden.errors import MisconfigurationException


class Stream:
    """No length."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read = self.started = 0

    def __iter__(self) -> Iterator[int]:
        self.started += 1
        for value in range(self.size):
            self.read += 1
            yield value


class Claims(Stream):
    """Says it has another length than it has."""

    def __init__(self, size: int, claimed: int) -> None:
        super().__init__(size)
        self.claimed = claimed

    def __len__(self) -> int:
        return self.claimed


class Shortest(Stream):
    """Remembers the epochs it was told."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def evaluated(source: EvalSource) -> list[list[Any]]:
    return [list(batches) for _, batches in source]


# -- training ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.none() | st.integers(0, 10) | st.sampled_from([0.0, 0.5, 1.0]))
def test_training_reads_as_many_batches_as_it_says(size: int, limit: float | None) -> None:
    for loader in (list(range(size)), range(size), Claims(size, size), DataLoader(TensorDataset(torch.arange(size)))):
        try:
            source = TrainSource(loader, limit=limit)
        except MisconfigurationException:
            assert limit == 0.5
            assert size == 1
            continue
        for _ in range(2):
            assert len(list(source)) == source.num_batches


def test_an_unknown_length_is_read_to_its_end_or_limit() -> None:
    source = TrainSource(Stream(5))
    assert source.num_batches == math.inf
    assert list(source) == [0, 1, 2, 3, 4]
    assert (TrainSource(Stream(5), limit=3).num_batches, list(TrainSource(Stream(5), limit=3))) == (3, [0, 1, 2])
    assert (TrainSource(Stream(5), limit=9).num_batches, len(list(TrainSource(Stream(5), limit=9)))) == (9, 5)
    with pytest.raises(MisconfigurationException, match=r"limit_train_batches=0\.5.*length is unknown"):
        TrainSource(Stream(5), limit=0.5)


def test_no_more_is_read_than_needed() -> None:
    stream = Stream(100)
    assert list(TrainSource(stream, limit=3)) == [0, 1, 2]
    assert stream.read == 3
    assert list(TrainSource(stream, limit=0)) == []
    assert stream.started == 1


def test_a_length_that_is_too_small_cuts_and_one_too_large_ends_early() -> None:
    assert list(TrainSource(Claims(5, claimed=3))) == [0, 1, 2]
    source = TrainSource(Claims(3, claimed=5))
    assert source.num_batches == 5
    assert list(source) == [0, 1, 2]


def test_one_plain_list_is_iterated_directly() -> None:
    batches = [torch.ones(1), torch.zeros(1)]
    assert type(iter(TrainSource(batches))) is type(iter(batches))
    assert type(iter(TrainSource(batches, limit=5))) is type(iter(batches))


def test_several_loaders_are_read_together_and_the_short_ones_again() -> None:
    source = TrainSource({"a": range(3), "b": Claims(2, 2)})
    assert source.num_batches == 3
    assert list(source) == [{"a": 0, "b": 0}, {"a": 1, "b": 1}, {"a": 2, "b": 0}]
    assert TrainSource([range(4), range(10)], limit=0.5).num_batches == 5
    assert TrainSource([range(4), Stream(10)]).num_batches == math.inf


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("min_size", [[0, 0], [1, 1]]),
        ("max_size", [[0, 0], [1, 1], [2, None]]),
        ("max_size_cycle", [[0, 0], [1, 1], [2, 0]]),
        ("sequential", [0, 1, 2, 0, 1]),
    ],
)
def test_a_combination_is_read_in_its_mode(mode: Any, expected: list[Any]) -> None:
    combined = CombinedLoader([range(3), range(2)], mode)
    source = TrainSource(combined)
    assert source.loaders is combined
    assert source.num_batches == len(expected)
    assert list(source) == expected
    assert list(TrainSource(combined, limit=2)) == expected[:2]


@pytest.mark.parametrize(
    "loader",
    [
        [],
        Claims(0, 0),
        CombinedLoader([range(0), range(3)], "min_size"),
        DataLoader(TensorDataset(torch.ones(3)), batch_size=4, drop_last=True),
    ],
)
def test_an_empty_training_loader_is_an_error(loader: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"`train_dataloader` gave a .* without a single batch"):
        TrainSource(loader)
    assert TrainSource(loader, limit=0).num_batches == 0


def test_a_missing_training_loader_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match="`train_dataloader` gave None"):
        TrainSource(None)


def test_an_epoch_without_batches_can_be_explained() -> None:
    error = TrainSource(iter([1])).nothing_read_error()
    assert "read to its end" in str(error)
    assert "`train_dataloader` gave a list_iterator" in str(error)


def test_overfitting_reads_the_same_batches_in_order() -> None:
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=2, shuffle=True)
    with pytest.warns(UserWarning, match="without shuffling"):
        source = TrainSource(loader, overfit=2)
    assert source.num_batches == 2
    assert [batch.tolist() for (batch,) in source] == [[0, 1], [2, 3]]
    assert TrainSource(range(10), overfit=0.2).num_batches == 2
    assert TrainSource(range(10), overfit=5, limit=3).num_batches == 3
    with pytest.raises(MisconfigurationException, match=r"overfit_batches=0\.5.*unknown"):
        TrainSource(Stream(3), overfit=0.5)


def test_the_strategy_prepares_each_loader_once() -> None:
    def make() -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(8)), batch_size=2)

    def prepare(loader: Any) -> Any:
        return distributed_loader(loader, 2, 1, "train")

    one = make()
    with pytest.warns(UserWarning, match="reads a list, which cannot be dealt out"):
        source = TrainSource({"a": one, "b": [1, 2]}, prepare=prepare)
    assert isinstance(source.loaders["a"].sampler, DistributedSampler)
    assert not isinstance(one.sampler, DistributedSampler)
    assert source.num_batches == 2
    combined = CombinedLoader([make(), make()], "sequential")
    source = TrainSource(combined, prepare=prepare)
    assert source.num_batches == 4
    assert isinstance(source.loaders, CombinedLoader)
    assert (source.loaders.mode, source.loaders is combined) == ("sequential", False)
    assert [batch.tolist() for (batch,) in source] == [[1, 3], [5, 7]] * 2


def test_the_epoch_reaches_every_loader() -> None:
    first, second, third = Shortest(1), Shortest(1), Shortest(1)
    TrainSource({"a": first, "b": CombinedLoader([second, [third]])}).set_epoch(4)
    assert (first.epochs, second.epochs, third.epochs) == ([4], [4], [4])
    EvalSource([first, CombinedLoader([second], "max_size")], stage="test").set_epoch(5)
    assert (first.epochs, second.epochs) == ([4, 5], [4, 5])


# -- evaluation ----------------------------------------------------------------------------------------------------


def test_one_loader_is_not_several() -> None:
    source = EvalSource(range(3), limit=None, stage="validate")
    assert (source.loaders, source.num_batches, source.several) == ([range(3)], [3], False)
    assert list(source.loaders) == [range(3)]
    assert evaluated(source) == [[0, 1, 2]]
    assert not EvalSource([torch.ones(1), torch.ones(1)], stage="test").several, "a list of batches is one loader"


@pytest.mark.parametrize(
    "loaders",
    [
        [range(3), range(5)],
        (range(3), range(5)),
        {"a": range(3), "b": range(5)},
        {"a": [range(3), {"b": range(5)}]},
        CombinedLoader({"a": range(3), "b": range(5)}, "sequential"),
    ],
)
def test_several_loaders_are_read_one_after_the_other(loaders: Any) -> None:
    source = EvalSource(loaders, limit=0.5, stage="test")
    assert (source.num_batches, source.several) == ([1, 2], True)
    assert evaluated(source) == [[0], [0, 1]]
    assert [index for index, _ in source] == [0, 1]


def test_limits_hold_for_each_loader() -> None:
    source = EvalSource([range(3), Stream(5), range(9)], limit=4, stage="predict")
    assert source.num_batches == [3, 4, 4]
    assert [len(batches) for batches in evaluated(source)] == [3, 4, 4]
    everything = EvalSource([range(3), Stream(5)], limit=1.0, stage="predict")
    assert everything.num_batches == [3, math.inf]
    assert evaluated(everything) == [[0, 1, 2], [0, 1, 2, 3, 4]]


def test_a_combination_of_ready_batches_stays_one_of_loaders() -> None:
    first, second = [torch.ones(1)], [torch.zeros(1)] * 2
    assert EvalSource(CombinedLoader([first, second], "sequential"), stage="test").num_batches == [1, 2]


def test_a_combination_of_another_mode_is_one_loader() -> None:
    source = EvalSource(CombinedLoader([range(2), range(3)], "max_size"), stage="validate")
    assert (source.num_batches, source.several) == ([3], False)
    assert evaluated(source) == [[[0, 0], [1, 1], [None, 2]]]


def test_a_combination_brings_its_own_limits() -> None:
    combined = CombinedLoader([range(5), Stream(5), range(5)], "sequential")
    combined.limits = [2, 3, None]
    source = EvalSource(combined, stage="validate")
    assert source.num_batches == [2, 3, 5]
    assert evaluated(source) == [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4]]


def test_the_sanity_check_reads_the_first_batches() -> None:
    source = EvalSource([range(3), Stream(9)], stage="sanity")
    short = source.first(2)
    assert (short.num_batches, source.num_batches) == ([2, 2], [3, math.inf])
    assert evaluated(short) == [[0, 1], [0, 1]]
    assert short.several
    assert source.first(math.inf).num_batches == [3, math.inf]


def test_a_loader_limited_to_nothing_is_not_started() -> None:
    stream = Stream(3)
    assert evaluated(EvalSource(stream, limit=0, stage="validate")) == [[]]
    assert stream.started == 0


@pytest.mark.parametrize("stage", ["sanity", "validate", "test"])
def test_an_empty_evaluation_loader_is_an_error(stage: str) -> None:
    name = "test" if stage == "test" else "val"
    with pytest.raises(
        MisconfigurationException, match=rf"`{name}_dataloader\[1\]` gave a range without a single batch"
    ):
        EvalSource([range(2), range(0)], stage=stage)
    with pytest.raises(MisconfigurationException, match=rf"limit_{name}_batches=0.1"):
        EvalSource(range(3), limit=0.1, stage=stage)


def test_predicting_nothing_is_an_error_unless_it_is_asked_for() -> None:
    with pytest.raises(MisconfigurationException, match="`predict_dataloader` gave a range without a single batch"):
        EvalSource(range(0), stage="predict")
    assert evaluated(EvalSource(range(0), stage="predict", limit=0)) == [[]]


def test_no_loaders_is_nothing_to_evaluate() -> None:
    source = EvalSource([], stage="validate")
    assert (source.num_batches, source.several, evaluated(source)) == ([], False, [])
    with pytest.raises(MisconfigurationException, match="`val_dataloader` gave None"):
        EvalSource(None, stage="validate")


def test_overfitting_evaluates_on_as_many_batches() -> None:
    loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=2, shuffle=True)
    with pytest.warns(UserWarning, match="`val_dataloader` is read without shuffling"):
        source = EvalSource(loader, stage="validate", overfit=0.4)
    assert [batch.tolist() for (batch,) in evaluated(source)[0]] == [[0, 1], [2, 3]]
