"""What is said of a checkpoint: data for JSON, in little time whatever the file holds."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.state.description import describe


def lists_in_lists(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def lists_that_share(doublings: int) -> list[Any]:
    """In full it would be text of 2 to the power of `doublings` numbers."""
    value: list[Any] = [1]
    for _ in range(doublings):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        lists_in_lists(5_000),
        lists_that_share(60),
        OrderedDict(a=lists_that_share(60)),
        torch.ones(3, device="meta"),
        2**2000,
        math.nan,
        {1: {2: "text"}},
    ],
)
def test_whatever_stands_where_is_said_briefly(value: Any) -> None:
    described = describe(
        {
            "format_version": value,
            "leyden_version": value,
            "epoch": value,
            "global_step": value,
            "loops": {"fit_loop": {"batches_seen": value}},
            "state_dict": {"w": value},
            "callbacks": {"a": value},
            "callback_versions": {"a": value},
            "hyper_parameters": {"x": value},
        }
    )
    assert len(json.dumps(described, allow_nan=False)) < 10_000
    assert described["callbacks"][0]["key"] == "a"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "text"),
        (0.5, 0.5),
        (True, True),
        (None, None),
        (math.inf, "inf"),
        ([1, 2], "[1, 2]"),
        ((1, "a"), "(1, 'a')"),
        ({"a": 1}, "{'a': 1}"),
        (OrderedDict(a=1), "OrderedDict"),
        (torch.ones(2), "Tensor"),
        (Path("data"), f"{Path('data')!r}"),
        (torch.float16, "torch.float16"),
    ],
)
def test_values_that_json_has_not_are_said_as_in_python(value: Any, said: Any) -> None:
    assert describe({"hyper_parameters": {"x": value}})["hyper_parameters"] == {"x": said}


@pytest.mark.parametrize(
    "checkpoint",
    [
        {1: 2, None: torch.ones(2), (1, 2): 3},
        {"callbacks": [1], "state_dict": "x", "loops": 3, "hyper_parameters": torch.ones(2), "callback_versions": 3},
        {"callbacks": {("a",): {1: 2}, dict: None}, "state_dict": {3: torch.ones(1)}, "loops": {"fit_loop": [1]}},
        {},
    ],
)
def test_what_is_of_another_kind_than_expected_is_left_out(checkpoint: dict[Any, Any]) -> None:
    described = describe(checkpoint)
    json.dumps(described, allow_nan=False)
    assert [entry["key"] for entry in described["entries"]] == [str(key) for key in checkpoint]


def test_tensors_are_counted_once_each_however_deep_and_in_circles() -> None:
    tensor = torch.zeros(2, 3)
    circle: list[Any] = [tensor, lists_in_lists(5_000)]
    circle.append(circle)
    (entry,) = describe({"mine": {"a": circle, "b": (tensor.half(),)}})["entries"]
    assert entry == {"key": "mine", "type": "dict", "tensors": 2, "bytes": 36}
