"""A resumed loader gives what the interrupted one would have given, and reads nothing twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler

from leyden.data.combined import CombinedLoader
from leyden.data.resumable import ResumableLoader
from leyden.state.rng import collect_rng, restore_rng

ITEMS = 11


class Items(Dataset[torch.Tensor]):
    """Items that are partly random, and a list of those that were read."""

    def __init__(self, random: bool = True) -> None:
        self.random = random
        self.reads: list[int] = []

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads.append(index)
        return torch.tensor(float(index)) + (torch.rand(()) if self.random else 0)


def shuffled(data: Items, workers: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=2, shuffle=True, num_workers=workers)


def with_generator(data: Items, workers: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(data, batch_size=2, shuffle=True, num_workers=workers, generator=generator)


def weighted(data: Items, workers: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=2, sampler=WeightedRandomSampler([1.0] * ITEMS, ITEMS), num_workers=workers)


def with_replacement(data: Items, workers: int) -> DataLoader[Any]:
    sampler = RandomSampler(data, replacement=True, num_samples=ITEMS)
    return DataLoader(data, batch_size=2, sampler=sampler, num_workers=workers)


def one_by_one(data: Items, workers: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=None, shuffle=True, num_workers=workers)


def persistent(data: Items, workers: int) -> DataLoader[Any]:
    return DataLoader(data, batch_size=2, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


LOADERS = [shuffled, with_generator, weighted, with_replacement, one_by_one, persistent]


def steps(batches: Iterator[Any]) -> Iterator[torch.Tensor]:
    """What a training step does beside: it draws random numbers of its own."""
    for batch in batches:
        yield batch
        torch.rand(1)


@pytest.mark.parametrize("make", LOADERS)
def test_gives_the_same_as_the_loader_itself(make: Callable[[Items, int], DataLoader[Any]]) -> None:
    torch.manual_seed(1)
    loader = make(Items(), 0)
    plain = [batch for _ in range(2) for batch in steps(iter(loader))]
    torch.manual_seed(1)
    source = ResumableLoader(make(Items(), 0))
    assert all(map(torch.equal, plain, [batch for _ in range(2) for batch in steps(iter(source))]))


@pytest.mark.parametrize("make", LOADERS)
@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_in_the_second_epoch(make: Callable[[Items, int], DataLoader[Any]], workers: int) -> None:
    cut = 3
    torch.manual_seed(1)
    source = ResumableLoader(make(Items(random=workers == 0), workers))
    list(steps(iter(source)))
    uninterrupted: list[torch.Tensor] = []
    state: dict[str, Any] = {}
    rng: dict[str, Any] = {}
    for batch in iter(source):
        uninterrupted.append(batch)
        torch.rand(1)
        if len(uninterrupted) == cut:
            state, rng = source.state_dict(), collect_rng()

    torch.manual_seed(99)
    data = Items(random=workers == 0)
    again = ResumableLoader(make(data, workers))
    again.load_state_dict(state)
    begun = again.begin()
    restore_rng(rng)
    rest = list(steps(begun))
    assert len(rest) == len(uninterrupted) - cut
    assert all(map(torch.equal, rest, uninterrupted[cut:]))
    if workers == 0:
        assert len(data.reads) == sum(batch.numel() for batch in rest)  # nothing that was read before
    following = list(again)
    assert len(following) == len(uninterrupted)  # the epoch after the resumed one is whole


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["min_size", "max_size", "max_size_cycle", "sequential"]),
    batch_sizes=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    cut=st.integers(1, 20),
)
def test_members_of_a_combination_resume_together(mode: Any, batch_sizes: list[int], cut: int) -> None:
    def combined() -> CombinedLoader:
        members = [ResumableLoader(DataLoader(Items(), batch_size=size, shuffle=True)) for size in batch_sizes]
        return CombinedLoader(members, mode)

    torch.manual_seed(3)
    loader = combined()
    uninterrupted: list[Any] = []
    state: dict[str, Any] = {}
    rng: dict[str, Any] = {}
    for batch, _, _ in loader:
        uninterrupted.append(batch)
        torch.rand(1)
        if len(uninterrupted) == cut:
            state, rng = loader.state_dict(), collect_rng()
    if not state:
        return
    torch.manual_seed(99)
    again = combined()
    again.load_state_dict(state)
    begun = iter(again)
    restore_rng(rng)
    rest = []
    for batch, _, _ in begun:
        rest.append(batch)
        torch.rand(1)
    assert len(rest) == len(uninterrupted) - cut
    for resumed, expected in zip(rest, uninterrupted[cut:], strict=True):
        assert str(resumed) == str(expected)


class WithState:
    """A loader that knows its place, as torchdata's StatefulDataLoader does."""

    def __init__(self) -> None:
        self.place = 0
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        while self.place < 5:
            self.place += 1
            self.read += 1
            yield self.place
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def test_a_loader_with_state_resumes_by_it() -> None:
    source = ResumableLoader(WithState())
    batches = iter(source)
    assert [next(batches), next(batches)] == [1, 2]
    again = ResumableLoader(WithState())
    again.load_state_dict(source.state_dict())
    assert list(again) == [3, 4, 5]
    assert again.loader.read == 3
    assert list(again) == [1, 2, 3, 4, 5]


def test_a_sequence_is_cut() -> None:
    again = ResumableLoader([10, 20, 30])
    again.load_state_dict(ResumableLoader([10, 20, 30]).state_dict(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(again) == [30]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


def test_a_stream_is_read_up_to_the_place_with_a_warning() -> None:
    again = ResumableLoader(DataLoader(Stream(), batch_size=None))
    again.load_state_dict(ResumableLoader(DataLoader(Stream(), batch_size=None)).state_dict(3))
    with pytest.warns(UserWarning, match=r"reads the first 3 batches of a DataLoader again .* StatefulDataLoader"):
        rest = list(again)
    assert rest == [3]


def test_a_state_before_the_first_batch_begins_anew() -> None:
    again = ResumableLoader([1, 2])
    again.load_state_dict(ResumableLoader([1, 2]).state_dict(0))
    assert list(again) == [1, 2]
