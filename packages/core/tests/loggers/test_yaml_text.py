from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.loggers.yaml_text import to_yaml

yaml = pytest.importorskip("yaml")

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text(max_size=40)  # a key of more than 1024 signs is written in another way, and no hyperparameter's name
plain = st.recursive(scalars, lambda part: st.lists(part) | st.dictionaries(keys, part), max_leaves=8)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(keys, plain))
def test_a_yaml_reader_reads_what_was_written(value: dict[str, Any]) -> None:
    assert yaml.safe_load(to_yaml(value)) == value


@pytest.mark.parametrize("key", ["on", "No", "null", "true", "y", "1", "1.5", "a b", "a:b", "", "é", "~"])
def test_keys_stay_strings(key: str) -> None:
    assert yaml.safe_load(to_yaml({key: {key: [1]}})) == {key: {key: [1]}}


@pytest.mark.parametrize("number", [1e-05, 1e22, -1.5e-7, 0.1, -0.0, math.inf, -math.inf])
def test_floats_stay_floats(number: float) -> None:
    read = yaml.safe_load(to_yaml({"lr": number}))["lr"]
    assert (type(read), read) == (float, number)


def test_nan() -> None:
    assert math.isnan(yaml.safe_load(to_yaml([math.nan]))[0])


def test_nothing_and_other_collections() -> None:
    assert to_yaml({}) == "{}\n"
    assert to_yaml([]) == "[]\n"
    assert to_yaml({"a": (), "b": (1, {"c": 2, "d": [3]}), "e": {4}}) == (
        "a: []\nb:\n- 1\n- c: 2\n  d:\n  - 3\ne:\n- 4\n"
    )


def test_objects_are_written_as_they_print() -> None:
    assert to_yaml({"path": range(3)}) == 'path: "range(0, 3)"\n'
