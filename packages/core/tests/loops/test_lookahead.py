"""Reading one batch ahead, and opening an epoch's batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.sources import TrainSource
from leyden.loops.lookahead import LookAhead, open_batches
from leyden.profilers import SimpleProfiler


class Stream:
    """Items without a length; counts how many were read."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.read = items, 0

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.read += 1
            yield item


@given(st.lists(st.none() | st.integers()))
def test_exactly_the_final_item_is_announced(items: list[Any]) -> None:
    ahead = LookAhead(iter(items))
    assert ahead.exhausted is (not items)
    assert [(item, ahead.exhausted) for item in ahead] == [
        (item, index + 1 == len(items)) for index, item in enumerate(items)
    ]


def test_one_item_is_read_ahead_and_no_more() -> None:
    stream = Stream([1, 2, 3])
    ahead = LookAhead(iter(stream))
    assert stream.read == 1
    assert (next(ahead), stream.read) == (1, 2)


def test_an_exhausted_one_stays_so() -> None:
    ahead = LookAhead(iter([1]))
    assert list(ahead) == [1]
    with pytest.raises(StopIteration):
        next(ahead)


@pytest.mark.parametrize("limit", [None, 2, 3, 9])
@pytest.mark.parametrize("known", [True, False])
def test_a_look_ahead_is_there_where_the_length_is_not_known(known: bool, limit: int | None) -> None:
    items = [10, 11, 12]
    source = TrainSource(items if known else Stream(items), limit=limit)
    batches, ahead = open_batches(source, None, None)
    assert (ahead is None) is known
    assert list(batches) == items[:limit]
    assert ahead is None or ahead.exhausted


def test_a_limit_is_not_read_beyond() -> None:
    stream = Stream([1, 2, 3, 4])
    batches, _ = open_batches(TrainSource(stream, limit=2), None, None)
    assert (list(batches), stream.read) == ([1, 2], 2)


def test_batches_done_before_are_passed_over() -> None:
    def rest(items: list[int], done: int) -> list[int]:
        source = TrainSource(items)
        return list(open_batches(source, source.state_dict(done), None)[0])

    assert rest([1, 2, 3], 2) == [3]
    assert rest([1, 2, 3], 3) == []


def test_a_source_that_counts_itself_says_where_the_item_last_given_was() -> None:
    stream = Stream([1, 2, 3])
    ahead = LookAhead(iter(stream), lambda: stream.read)
    assert [(item, ahead.place) for item in ahead] == [(1, 1), (2, 2), (3, 3)]


def test_an_item_that_is_not_given_since_reading_on_failed_is_still_to_come() -> None:
    def failing() -> Iterator[int]:
        yield from stream
        raise ConnectionError

    stream = Stream([1, 2])
    ahead = LookAhead(failing(), lambda: stream.read)
    assert next(ahead) == 1
    place, rng = ahead.place, ahead.rng
    with pytest.raises(ConnectionError):
        next(ahead)
    assert ahead.place == place == 1
    assert ahead.rng is rng


def test_a_profiler_measures_each_batch() -> None:
    profiler = SimpleProfiler()
    batches, _ = open_batches(TrainSource([1, 2, 3]), None, profiler)
    assert list(batches) == [1, 2, 3]
    assert profiler.recorded["", "next(train_dataloader)"][0] == 4  # the end is asked for too
