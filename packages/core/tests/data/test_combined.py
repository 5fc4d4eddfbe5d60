"""CombinedLoader against a reference that is slow and plain."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from leyden.data import CombinedLoader
from leyden.data.combined import Mode
from leyden.errors import MisconfigurationException

MODES: list[Mode] = ["min_size", "max_size", "max_size_cycle", "sequential"]


class Stream:
    """A loader without length that says how often it was started and how much was read."""

    def __init__(self, size: int, offset: int = 0) -> None:
        self.size, self.offset = size, offset
        self.started = self.read = 0

    def __iter__(self) -> Iterator[int]:
        self.started += 1
        for value in range(self.size):
            self.read += 1
            yield self.offset + value


class Resumable(Stream):
    """A loader that goes on where its state says; as torchdata's, it begins anew from the state of an ended epoch."""

    def __init__(self, size: int, offset: int = 0) -> None:
        super().__init__(size, offset)
        self.position = self.resume_at = 0
        self.ended = False

    def __iter__(self) -> Iterator[int]:
        self.position, self.resume_at = self.resume_at, 0
        self.ended = False
        return self._rest()

    def _rest(self) -> Iterator[int]:
        while self.position < self.size:
            self.position += 1
            yield self.offset + self.position - 1
        self.ended = True

    def state_dict(self) -> dict[str, int]:
        return {"position": 0 if self.ended else self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.resume_at = state["position"]


def reference(sizes: list[int], limits: list[int | None], mode: Mode) -> list[tuple[Any, int, int]]:
    members = [
        [100 * place + value for value in range(size if limit is None else min(size, limit))]
        for place, (size, limit) in enumerate(zip(sizes, limits, strict=True))
    ]
    if mode == "sequential":
        return [(batch, index, place) for place, member in enumerate(members) for index, batch in enumerate(member)]
    rounds = min(map(len, members)) if mode == "min_size" else max(map(len, members))
    expected = []
    for index in range(rounds):
        if mode == "max_size_cycle":
            row: list[int | None] = [member[index % len(member)] for member in members]
        else:
            row = [member[index] if index < len(member) else None for member in members]
        expected.append((row, index, 0))
    return expected


@given(st.data(), st.sampled_from(MODES), st.booleans())
def test_every_mode_gives_what_the_reference_gives(data: st.DataObject, mode: Mode, sized: bool) -> None:
    smallest = 1 if mode == "max_size_cycle" else 0
    sizes = data.draw(st.lists(st.integers(smallest, 6), min_size=1, max_size=4))
    limits = [data.draw(st.none() | st.integers(smallest, 7)) for _ in sizes]
    members: list[Any] = [
        range(100 * place, 100 * place + size) if sized else Stream(size, 100 * place)
        for place, size in enumerate(sizes)
    ]
    combined = CombinedLoader(members, mode)
    combined.limits = limits
    expected = reference(sizes, limits, mode)
    assert list(combined) == expected
    assert list(combined) == expected, "a second epoch is like the first"
    assert list(combined.batches()) == [batch for batch, _, _ in expected]
    if sized:
        assert len(combined) == len(expected)


@given(st.data(), st.sampled_from(MODES))
def test_resuming_gives_the_rest(data: st.DataObject, mode: Mode) -> None:
    smallest = 1 if mode == "max_size_cycle" else 0
    sizes = data.draw(st.lists(st.integers(smallest, 5), min_size=1, max_size=3))

    def make() -> CombinedLoader:
        return CombinedLoader([Resumable(size, 100 * place) for place, size in enumerate(sizes)], mode)

    whole = list(make().batches())
    cut = data.draw(st.integers(0, len(whole)))
    first = make()
    batches = first.batches()
    read = [next(batches) for _ in range(cut)]
    second = make()
    second.load_state_dict(first.state_dict())
    assert read + list(second.batches()) == whole
    assert list(second.batches()) == whole, "the epoch after is a whole one"


def test_sequential_resumes_with_its_indices() -> None:
    first = CombinedLoader([Resumable(2), Resumable(3)], "sequential")
    batches = iter(first)
    for _ in range(3):
        next(batches)
    second = CombinedLoader([Resumable(2), Resumable(3)], "sequential")
    second.load_state_dict(first.state_dict())
    assert list(second) == [(1, 1, 1), (2, 2, 1)]


def test_state_of_another_combination_is_refused() -> None:
    state = CombinedLoader([range(2), range(3)], "max_size").state_dict()
    with pytest.raises(ValueError, match="mode 'max_size' and 2 loaders; this one has mode 'min_size' and 2"):
        CombinedLoader([range(2), range(3)], "min_size").load_state_dict(state)


Pair = namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    ("iterables", "expected"),
    [
        ([range(1), range(1)], [0, 0]),
        ((range(1), range(1)), (0, 0)),
        ({"a": range(1), "b": range(1)}, {"a": 0, "b": 0}),
        ({"a": [range(1), range(1)], "b": range(1)}, {"a": [0, 0], "b": 0}),
        ([[range(1)]], [[0]]),
        ({"a": {"b": (range(1),)}}, {"a": {"b": (0,)}}),
        (Pair(range(1), range(1)), Pair(0, 0)),
        (OrderedDict(a=range(1)), OrderedDict(a=0)),
        ({"a": [1, 2], "b": range(1)}, {"a": 1, "b": 0}),
        ([[1, 2], [3, 4]], [1, 3]),
        (range(1), 0),
    ],
)
def test_batches_have_the_shape_of_the_collection(iterables: Any, expected: Any) -> None:
    (batch, batch_idx, dataloader_idx), *rest = CombinedLoader(iterables, "min_size")
    assert (batch, batch_idx, dataloader_idx) == (expected, 0, 0)
    assert type(batch) is type(expected)
    assert len(rest) == (1 if iterables == [[1, 2], [3, 4]] else 0)


def test_a_combination_in_a_combination_gives_its_batches() -> None:
    inner = CombinedLoader([range(2), range(10, 12)], "min_size")
    assert list(CombinedLoader([inner, range(2)], "min_size").batches()) == [[[0, 10], 0], [[1, 11], 1]]


def test_cycling_starts_no_loader_for_nothing() -> None:
    short, long = Stream(2), Stream(4)
    assert len(list(CombinedLoader([short, long], "max_size_cycle"))) == 4
    assert (short.started, long.started) == (2, 1)
    assert (short.read, long.read) == (4, 4)


def test_cycling_an_empty_or_used_up_loader_is_an_error() -> None:
    for member in (Stream(0), iter([1, 2])):
        with pytest.raises(MisconfigurationException, match=r"cannot start loader 1 .* anew"):
            list(CombinedLoader([range(3), member], "max_size_cycle"))
    assert list(CombinedLoader([Stream(0), Stream(0)], "max_size_cycle")) == []


def test_an_endless_member_is_read_only_as_far_as_needed() -> None:
    endless = Stream(10**9)
    assert len(list(CombinedLoader([endless, range(3)], "min_size"))) == 3
    assert endless.read <= 4


class Unsized(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_no_length_when_a_member_has_none() -> None:
    combined = CombinedLoader([range(3), DataLoader(Unsized())], "min_size")
    with pytest.raises(TypeError, match="here a DataLoader, has none"):
        len(combined)
    combined.limits = 2
    with pytest.raises(TypeError):
        len(combined)
    assert combined.lengths() == [2, None]
    assert len(list(combined)) == 2


def test_members_and_limits_can_be_replaced() -> None:
    combined = CombinedLoader({"a": range(2), "b": [range(3)]}, "max_size")
    combined.flattened = [range(1), range(4)]
    assert combined.iterables == {"a": range(1), "b": [range(4)]}
    assert len(combined) == 4
    combined.limits = [None, 2]
    assert len(combined) == 2
    combined.limits = None
    assert len(combined) == 4
    assert combined.with_members(combined.flattened) is combined
    other = combined.with_members([range(1), range(1)])
    assert (len(other), len(combined), other.mode) == (1, 4, "max_size")
    with pytest.raises(ValueError, match="Expected 2 loaders, one per place; got 1"):
        combined.flattened = [range(1)]
    with pytest.raises(ValueError, match="Expected 2 limits, one per loader; got 3"):
        combined.limits = [1, 2, 3]


def test_wrong_arguments_say_what_is_right() -> None:
    with pytest.raises(MisconfigurationException, match=r"mode='max_sice'.*Did you mean 'max_size'"):
        CombinedLoader([range(2)], "max_sice")  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match="holds no loader"):
        CombinedLoader([])
    with pytest.raises(MisconfigurationException, match=r"flattened\[1\]` is 5 \(int\), which cannot be read"):
        CombinedLoader([range(2), 5])
