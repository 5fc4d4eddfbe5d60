"""Loaders with another sampler."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from leyden.data.samplers import (
    FrozenSampler,
    SharedSampler,
    as_first_process,
    distributed_loader,
    overfit_loader,
    replace_sampler,
)
from leyden.errors import MisconfigurationException


class Numbers(Dataset[int]):
    def __init__(self, size: int = 10) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(10))


def double(samples: list[int]) -> list[int]:
    return [2 * sample for sample in samples]


def indices(loader: Any) -> list[Any]:
    return [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in loader]


class OwnLoader(DataLoader[int]):
    """Made in a way that its attributes do not tell."""

    def __init__(self, how_many: int, secret: str) -> None:
        sampler = RandomSampler(Numbers(how_many))
        super().__init__(Numbers(how_many), batch_size=2, sampler=sampler, collate_fn=double)
        self.also_the_sampler = sampler
        self.key = secret.upper()


class ShuffledBatches(Sampler[list[int]]):
    """A batch sampler that has no sampler in it and draws from Python's generator."""

    def __iter__(self) -> Iterator[list[int]]:
        batches = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
        random.shuffle(batches)
        return iter(batches)

    def __len__(self) -> int:
        return 5


def test_another_sampler_leaves_the_rest_and_the_original_alone() -> None:
    generator = torch.Generator()
    loader = DataLoader(
        Numbers(), batch_size=4, shuffle=True, drop_last=True, collate_fn=double, generator=generator, timeout=0
    )
    sampler_before = loader.sampler
    other = replace_sampler(loader, SequentialSampler(Numbers()))
    assert indices(other) == [[0, 2, 4, 6], [8, 10, 12, 14]]
    assert (other.batch_size, other.drop_last, other.generator) == (4, True, generator)
    assert loader.sampler is sampler_before
    assert isinstance(loader.batch_sampler, BatchSampler)
    assert loader.batch_sampler.sampler is sampler_before


def test_a_loader_with_workers_reads_from_the_new_sampler_while_the_original_runs() -> None:
    loader = DataLoader(Numbers(4), batch_size=2, num_workers=1, persistent_workers=True)
    running = iter(loader)
    assert next(running).tolist() == [0, 1]
    assert indices(replace_sampler(loader, [3, 2, 1, 0])) == [[3, 2], [1, 0]]
    assert next(running).tolist() == [2, 3]


def test_a_loader_without_batching_takes_a_sampler() -> None:
    assert list(replace_sampler(DataLoader(Numbers(), batch_size=None), [4, 2])) == [4, 2]


def test_a_class_with_its_own_constructor_is_kept() -> None:
    other = replace_sampler(OwnLoader(4, "key"), [3, 1, 0, 2])
    assert isinstance(other, OwnLoader)
    assert indices(other) == [[6, 2], [0, 4]]
    assert other.key == "KEY"
    assert vars(other)["also_the_sampler"] == [3, 1, 0, 2]


class Reversed(BatchSampler):
    """A batch sampler of one's own around a sampler."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([batch[::-1] for batch in super().__iter__()])


def test_a_batch_sampler_of_its_own_gets_the_sampler() -> None:
    loader = DataLoader(Numbers(4), batch_sampler=Reversed(SequentialSampler(Numbers(4)), 2, False))
    assert indices(replace_sampler(loader, [3, 1, 0, 2])) == [[1, 3], [2, 0]]
    assert indices(loader) == [[1, 0], [3, 2]]


def test_a_batch_sampler_without_sampler_is_an_error_that_says_both_ways_out() -> None:
    loader = DataLoader(Numbers(), batch_sampler=ShuffledBatches())
    with pytest.raises(MisconfigurationException, match=r"ShuffledBatches .* no attribute `sampler`") as caught:
        replace_sampler(loader, [1])
    assert "Draw indices from `self.sampler`" in str(caught.value)
    assert "use_distributed_sampler=False" in str(caught.value)


# -- overfitting ---------------------------------------------------------------------------------------------------


def quiet_overfit(loader: Any) -> Any:
    with pytest.warns(UserWarning, match="`train_dataloader` is read without shuffling anew"):
        return overfit_loader(loader)


def test_overfitting_turns_shuffling_off() -> None:
    loader = quiet_overfit(DataLoader(Numbers(4), batch_size=2, shuffle=True))
    assert indices(loader) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Numbers(), sampler=SubsetRandomSampler([3, 5, 7, 9]), batch_size=2),
        DataLoader(Numbers(), sampler=WeightedRandomSampler([1.0] * 10, 6), batch_size=2),
        DataLoader(Numbers(), batch_sampler=ShuffledBatches()),
        DataLoader(Numbers(), batch_sampler=Reversed(RandomSampler(Numbers()), 2, False)),
        DataLoader(Numbers(), sampler=RandomSampler(Numbers()), batch_size=None),
    ],
    ids=["subset", "weighted", "batches", "own batch sampler", "no batching"],
)
def test_overfitting_repeats_what_was_drawn_first(loader: Any) -> None:
    fixed = quiet_overfit(loader)
    first = indices(fixed)
    assert indices(fixed) == first
    assert len(fixed) == len(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert overfit_loader(fixed) is fixed or not isinstance(loader.sampler, SubsetRandomSampler)


def test_overfitting_keeps_the_split_that_a_sampler_makes() -> None:
    fixed = quiet_overfit(DataLoader(Numbers(), sampler=SubsetRandomSampler([3, 5, 7, 9]), batch_size=4))
    assert sorted(indices(fixed)[0]) == [3, 5, 7, 9]


@pytest.mark.parametrize(
    "loader", [DataLoader(Numbers()), DataLoader(Stream()), [1, 2]], ids=["in order", "stream", "list"]
)
def test_overfitting_leaves_what_does_not_shuffle(loader: object) -> None:
    assert overfit_loader(loader) is loader


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield random.randrange(10)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6))
def test_a_frozen_sampler_draws_only_what_is_read(reads: list[int]) -> None:
    frozen = FrozenSampler(Endless())
    longest: list[int] = []
    for count in reads:
        iterator = iter(frozen)
        drawn = [next(iterator) for _ in range(count)]
        assert drawn[: len(longest)] == longest[:count]
        longest = max(longest, drawn, key=len)
    assert len(frozen._drawn) == max(reads)


# -- several processes ---------------------------------------------------------------------------------------------


def shares(make: Any, replicas: int, stage: str, epoch: int = 0) -> list[list[Any]]:
    result = []
    for rank in range(replicas):
        torch.manual_seed(rank)  # processes need not be seeded alike
        random.seed(rank)
        loader = distributed_loader(make(), replicas, rank, stage)
        sampler = loader.sampler if hasattr(loader.sampler, "set_epoch") else loader.batch_sampler.sampler
        sampler.set_epoch(epoch)
        result.append([index for batch in indices(loader) for index in (batch if isinstance(batch, list) else [batch])])
    return result


def test_a_dataset_is_shared_in_order() -> None:
    def make() -> DataLoader[int]:
        return DataLoader(Numbers(), batch_size=2)

    assert shares(make, 3, "train") == [[0, 3, 6, 9], [1, 4, 7, 0], [2, 5, 8, 1]]
    for stage in ("validate", "test", "predict"):
        assert shares(make, 3, stage) == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("options", [{"replacement": True}, {"num_samples": 4}], ids=str)
def test_a_random_sampler_of_another_number_of_samples_is_dealt_out_as_it_is(options: Any) -> None:
    def make() -> DataLoader[int]:
        data = Numbers()
        return DataLoader(data, sampler=RandomSampler(data, **{"num_samples": 6, **options}))

    first, second = shares(make, 2, "train")
    assert len(first) == len(second) == options.get("num_samples", 6) // 2
    torch.manual_seed(0)
    assert sorted([*first, *second]) == sorted(RandomSampler(Numbers(), **{"num_samples": 6, **options}))


def test_a_process_knows_how_much_the_first_has() -> None:
    loader = distributed_loader(DataLoader(Numbers(5), batch_size=2), 4, 3, "test")
    with as_first_process([loader, [1, 2]]):
        assert len(loader) == 1
        assert len(loader.sampler) == 2
    assert len(loader.sampler) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: DataLoader(Numbers(12), batch_size=2, shuffle=True),
        lambda: DataLoader(Numbers(12), batch_size=None, sampler=SubsetRandomSampler(range(12))),
        lambda: DataLoader(Numbers(12), batch_sampler=Reversed(RandomSampler(Numbers(12)), 2, False)),
    ],
    ids=["shuffle", "own sampler", "own batch sampler"],
)
@pytest.mark.parametrize("stage", ["train", "predict"])
def test_shuffled_shares_fit_together_and_change_with_the_epoch(make: Any, stage: str) -> None:
    first, second = shares(make, 3, stage, 0), shares(make, 3, stage, 1)
    for epoch in (first, second):
        assert [len(share) for share in epoch] == [4, 4, 4]
        assert sorted(index for share in epoch for index in share) == list(range(12))
    assert first != second
    assert first == shares(make, 3, stage, 0)


def test_the_seed_of_the_run_decides_the_shuffling(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> DataLoader[int]:
        return DataLoader(Numbers(12), shuffle=True)

    first = shares(make, 2, "train")
    monkeypatch.setenv("LEYDEN_SEED", "5")
    assert shares(make, 2, "train") != first


@given(st.integers(0, 20), st.integers(1, 6), st.booleans())
def test_shares_have_the_length_they_say(size: int, replicas: int, repeat: bool) -> None:
    parts = [SharedSampler(SequentialSampler(Numbers(size)), replicas, rank, repeat=repeat) for rank in range(replicas)]
    drawn = [list(part) for part in parts]
    assert [len(part) for part in parts] == [len(share) for share in drawn]
    everything = [index for share in drawn for index in share]
    assert set(everything) == set(range(size))
    if repeat:
        assert len({len(share) for share in drawn}) == 1
    else:
        assert len(everything) == size


def test_drawing_leaves_the_generators_of_the_process_alone() -> None:
    sampler = SharedSampler(ShuffledBatches(), 2, 0, repeat=False)
    torch.manual_seed(3)
    random.seed(3)
    expected = (torch.rand(1).item(), random.random())
    torch.manual_seed(3)
    random.seed(3)
    assert len(list(sampler)) == 3
    assert (torch.rand(1).item(), random.random()) == expected


def test_what_is_distributed_already_or_cannot_be_is_left() -> None:
    data = Numbers()
    by_user = DataLoader(data, sampler=DistributedSampler(data, 2, 0))
    for loader in (by_user, distributed_loader(DataLoader(data), 2, 0, "predict")):
        assert distributed_loader(loader, 2, 1) is loader
    for loader, stage, told in (
        (DataLoader(Stream()), "train", r"reads an IterableDataset \(Stream\).* trains on the same .*get_worker_info"),
        ([1, 2], "test", r"reads a list, .* counts each sample again.*use_distributed_sampler=False"),
    ):
        with pytest.warns(UserWarning, match=told):
            assert distributed_loader(loader, 2, 1, stage) is loader
        assert distributed_loader(loader, 1, 0, stage) is loader
    with pytest.raises(MisconfigurationException, match="use_distributed_sampler=False"):
        distributed_loader(DataLoader(data, batch_sampler=ShuffledBatches()), 2, 0)
