from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden.errors import MisconfigurationException
from leyden.logging.batch_size import batch_size_of


@dataclass
class Sample:
    x: Tensor
    y: Tensor


Pair = namedtuple("Pair", ["name", "x"])
five = torch.zeros(5, 2)


@pytest.mark.parametrize(
    "batch",
    [
        five,
        (five, torch.zeros(5)),
        [five, 3],
        {"name": "x", "x": five},
        OrderedDict(x=five),
        UserDict(x=five),
        {"nested": [{"deep": (five,)}]},
        Sample(five, torch.zeros(5)),
        Pair("a", five),
        (torch.tensor(1.0), five),
        ["a", "b", "c", "d", "e"],
        ({"text": ["a", "b", "c", "d", "e"]}),
        [1, 2, 3, 4, 5],
    ],
)
def test_finds_the_first_dimension(batch: object) -> None:
    assert batch_size_of(batch, check=True) == (5, ())


@pytest.mark.parametrize("batch", [torch.tensor(3.0), [torch.tensor(3.0)], 7, 2.5, None])
def test_scalars_are_one_sample(batch: object) -> None:
    assert batch_size_of(batch) == (1, ())


def test_names_other_sizes_only_when_asked() -> None:
    batch = {"x": torch.zeros(3, 2), "y": torch.zeros(4), "z": torch.zeros(3)}
    assert batch_size_of(batch, check=True) == (3, (4,))
    assert batch_size_of(batch) == (3, ())


class Graph:
    pass


@pytest.mark.parametrize("batch", [Graph(), {}, [], "text", Sample])
def test_what_can_t_be_measured_is_an_error_that_names_the_argument(batch: Any) -> None:
    with pytest.raises(MisconfigurationException, match=rf"{type(batch).__name__}.*batch_size=n"):
        batch_size_of(batch)
