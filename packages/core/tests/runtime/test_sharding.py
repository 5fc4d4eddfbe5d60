"""What is sharded, and what is refused: weights that two parts share, or that belong to none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leyden import MisconfigurationException
from leyden.runtime.sharding import check_ties, roots_of


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.critics = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
        self.named = nn.ModuleDict({"head": nn.Linear(2, 1), "act": nn.ReLU()})


def test_parts_that_run_by_themselves() -> None:
    gan: Any = Gan()
    assert roots_of(gan) == [gan.generator, gan.critics[0], gan.critics[1], gan.named["head"]]


def test_a_weight_of_no_part_is_refused() -> None:
    gan = Gan()
    gan.temperature = nn.Parameter(torch.ones(1))
    with pytest.raises(MisconfigurationException, match="Gan, each for itself, and temperature belongs to none"):
        roots_of(gan)


def test_ties_within_a_part_and_between_two() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    check_ties(net, [net])
    with pytest.raises(MisconfigurationException, match=r"0\.weight and 1\.weight are one parameter"):
        check_ties(net, [net[0], net])
