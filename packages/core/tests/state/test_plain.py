"""What is called plain is what a safe load gives back, and nothing else is."""

from __future__ import annotations

import datetime
import enum
import math
import pathlib
import zoneinfo
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden import MisconfigurationException
from leyden.state.plain import check_plain
from leyden.state.storage import load, save

EAST = datetime.timezone(datetime.timedelta(hours=2))
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
    | st.text() | st.binary() | st.dates() | st.timedeltas()
    # torch writes pickle's protocol 2, which knows no `fold`.
    | (st.times() | st.datetimes() | st.datetimes(timezones=st.just(EAST))).map(lambda time: time.replace(fold=0))
    | st.text("ab/.", max_size=5).map(Path)
    | st.sampled_from([torch.float32, torch.device("cpu"), torch.Size([2, 3]), np.dtype("f4")])
    | st.sampled_from([np.float32(0.5), np.int8(3), np.bool_(True), np.datetime64("2020-01-01"), np.complex64(1j)])
)  # fmt: skip
KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.dates()
PLAIN = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
        | st.sets(KEYS, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return all(same(one, other) for one, other in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return all(same(one, other) for one, other in zip(a, b, strict=True))
    return bool(a == b) if isinstance(a, set) else repr(a) == repr(b)


class Subclass(torch.Tensor): ...


class Words(dict[str, int]): ...


class Colour(enum.Enum):
    RED = 1


class IntColour(enum.IntEnum):
    RED = 1


@settings(max_examples=150, deadline=None)
@given(value=PLAIN)
def test_what_is_plain_comes_back_from_a_file_equal_and_of_its_types(value: Any) -> None:
    check_plain(value, "state")
    save(value, "a.ckpt")
    assert same(load("a.ckpt"), value)


TENSORS: list[Any] = [
    torch.arange(3.0), torch.ones(2, dtype=torch.bfloat16), torch.nn.Parameter(torch.ones(1)), torch.eye(2).to_sparse(),
    np.arange(3), np.asfortranarray(np.ones((2, 2))), np.ones(2, dtype=">f4"), np.array(["a"]), np.array([None, 1]),
    np.zeros(1, dtype=[("a", int)]), np.longdouble(1.5), bytearray(b"a"), Counter("aab"), math.nan,
]  # fmt: skip


@pytest.mark.parametrize("value", TENSORS, ids=lambda value: type(value).__name__)
def test_tensors_and_arrays_of_every_make_are_plain(value: Any) -> None:
    check_plain(value, "state")
    save(value, "a.ckpt")
    loaded = load("a.ckpt")
    assert type(loaded) is type(value)
    assert str(loaded) == str(value)


NOT_PLAIN: list[Any] = [
    object(), len, int, lambda: None, frozenset({1}), defaultdict(list), range(3), slice(1), ..., Colour.RED,
    IntColour.RED, Words(a=1), torch.nn.Linear(1, 1), torch.ones(1).as_subclass(Subclass), torch.Generator(),
    np.ma.ones(2), np.add, np.array([object()]), np.array(["a"], dtype=np.dtypes.StringDType()),
    np.dtypes.StringDType(), np.random.default_rng(0),
    datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), datetime.time(1, tzinfo=zoneinfo.ZoneInfo("UTC")),
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_PLAIN, ids=lambda value: type(value).__name__)
def test_the_rest_is_refused_and_would_not_have_come_back(value: Any) -> None:
    with pytest.raises(MisconfigurationException, match="which a checkpoint cannot hold safely"):
        check_plain({"a": [value]}, "state")
    assert not comes_back(value)


def comes_back(value: Any) -> bool:
    try:
        torch.save(value, "a.ckpt")
        loaded = load("a.ckpt")
    except Exception:  # pickle's and torch's refusals are of many kinds
        return False
    return type(loaded) is type(value)


def test_the_error_names_the_path_to_the_value_and_a_way_out() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        check_plain({"best": {"scores": [0.1, (object(),)]}}, "the state of EarlyStopping")
    assert str(raised.value).startswith("the state of EarlyStopping['best']['scores'][1][0] is an object")
    assert "Store numbers, strings, tensors" in str(raised.value)
    with pytest.raises(MisconfigurationException, match=r"^the key <Colour\.RED: 1> of state\['a'\] is a Colour"):
        check_plain({"a": {Colour.RED: 1}}, "state")
    with pytest.raises(MisconfigurationException, match=r"time zone UTC.*astimezone\(datetime\.timezone\.utc\)"):
        check_plain(NOT_PLAIN[-2], "state")


def test_paths_of_the_other_system_are_plain() -> None:
    value = [pathlib.PureWindowsPath("c:/a"), pathlib.PurePosixPath("/a")]
    check_plain(value, "state")
    save(value, "a.ckpt")
    assert load("a.ckpt") == value
