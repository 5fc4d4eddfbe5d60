"""Counting floating point operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leyden.flops import measure_flops


def test_backward_adds_the_products_with_weights_and_inputs() -> None:
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)).to("meta")
    x = torch.empty(16, 4, device="meta")

    def loss(output: Tensor) -> Tensor:
        return output.sum()

    forward = 2 * 16 * (4 * 8 + 8 * 2)
    assert measure_flops(model, lambda: model(x)) == forward
    # The first layer's input needs no gradient, every other product comes twice more.
    assert measure_flops(model, lambda: model(x), loss) == 3 * forward - 2 * 16 * 4 * 8


def test_nothing_that_multiplies_counts_nothing() -> None:
    assert measure_flops(nn.Identity(), lambda: torch.ones(2) + 1) == 0
