"""Which items a batch has: recorded as they are drawn, handed out as the batches are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from leyden.data.indices import IndexRecorder, recorder_of, recording

DATA: Any = [10 * number for number in range(5)]


def read(loader: Any, limit: int | None = None) -> list[tuple[Any, list[Any]]]:
    """Each batch with its indices."""
    recorder = recorder_of(loader)
    assert recorder is not None
    seen: list[tuple[Any, list[Any]]] = []
    for batch in loader:
        seen.append((batch.tolist() if isinstance(batch, torch.Tensor) else batch, recorder.take()))
        if len(seen) == limit:
            break
    return seen


def of(loader: DataLoader[Any]) -> list[tuple[Any, list[Any]]]:
    seen = read(recording(loader))
    for batch, indices in seen:
        assert (batch if isinstance(batch, list) else [batch]) == [DATA[index] for index in indices]
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_shuffled_batches_with_and_without_workers(workers: int) -> None:
    seen = of(DataLoader(DATA, batch_size=2, shuffle=True, num_workers=workers))
    assert sorted(index for _, indices in seen for index in indices) == [0, 1, 2, 3, 4]
    assert [len(indices) for _, indices in seen] == [2, 2, 1]


def test_items_that_are_not_batched() -> None:
    assert of(DataLoader(DATA, batch_size=None)) == [(10 * index, [index]) for index in range(5)]


def test_samplers_of_ones_own() -> None:
    class Tensors:
        def __iter__(self) -> Iterator[Any]:
            return iter([torch.tensor([4, 0]), torch.tensor([1])])

        def __len__(self) -> int:
            return 2

    class Whole(list[Any]):
        def __getitem__(self, indices: Any) -> Any:
            return [super(Whole, self).__getitem__(index) for index in indices]

    assert of(DataLoader(DATA, batch_sampler=Tensors())) == [([40, 0], [4, 0]), ([10], [1])]
    batches: Any = BatchSampler(SequentialSampler(DATA), 3, drop_last=True)
    whole: Any = Whole(DATA)
    assert of(DataLoader(whole, sampler=batches, batch_size=None)) == [([0, 10, 20], [0, 1, 2])]


def test_a_pass_that_was_left_early_leaves_nothing_to_the_next() -> None:
    loader = recording(DataLoader(DATA, batch_size=1, num_workers=2, persistent_workers=True))
    assert read(loader, limit=1) == [([0], [0])]
    assert [indices for _, indices in read(loader)] == [[0], [1], [2], [3], [4]]


def test_the_loader_that_was_given_stays_as_it_was() -> None:
    loader = DataLoader(DATA, batch_size=2, sampler=RandomSampler(DATA))
    sampler, recorded = loader.batch_sampler, recording(loader)
    assert (loader.batch_sampler, recorder_of(loader)) == (sampler, None)
    assert (len(recorded), recorded.batch_size, recorded.dataset) == (3, 2, DATA)
    assert recorded.batch_sampler.drop_last is False
    torch.manual_seed(0)
    straight = [batch.tolist() for batch in loader]
    torch.manual_seed(0)
    assert [batch.tolist() for batch in recorded] == straight


def test_data_without_indices_are_left_alone() -> None:
    class Stream(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    unordered = DataLoader(DATA, num_workers=1, in_order=False)
    for loader in (DataLoader(Stream(), batch_size=2), unordered, [torch.ones(1)], range(3)):
        assert recording(loader) is loader
        assert recorder_of(loader) is None


def test_a_loader_that_draws_nothing_has_empty_indices() -> None:
    assert IndexRecorder([[0]]).take() == []
