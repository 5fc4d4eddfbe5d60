"""Norms of gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leyden.gradients import grad_norm


def layer() -> nn.Linear:
    made = nn.Linear(2, 2)
    made.weight.grad = torch.tensor([[3.0, 0.0], [0.0, -4.0]])
    made.bias.grad = torch.tensor([12.0, 0.0])
    return made


@pytest.mark.parametrize(
    ("p", "weight", "bias", "total"), [(1, 7.0, 12.0, 19.0), (2, 5.0, 12.0, 13.0), ("inf", 4.0, 12.0, 12.0)]
)
def test_norms_by_name_and_in_all(p: float | str, weight: float, bias: float, total: float) -> None:
    norms = grad_norm(layer(), p)
    name = f"grad_{float(p)}_norm"
    assert {key: value.item() for key, value in norms.items()} == pytest.approx(
        {f"{name}/weight": weight, f"{name}/bias": bias, f"{name}_total": total}
    )
    assert not any(value.requires_grad for value in norms.values())


def test_parameters_without_gradient_are_left_out() -> None:
    made = layer()
    made.bias.grad = None
    assert list(grad_norm(made, 2, group_separator=".")) == ["grad_2.0_norm.weight", "grad_2.0_norm_total"]
    assert grad_norm(nn.Linear(2, 2), 2) == {}


@pytest.mark.parametrize("p", [0, -1, "-inf", math.nan])
def test_a_norm_is_of_a_positive_order(p: float | str) -> None:
    with pytest.raises(ValueError, match="expected a number greater than 0"):
        grad_norm(layer(), p)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6))
def test_the_total_is_the_norm_of_all_numbers_together(values: list[float]) -> None:
    module = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in values])
    for parameter, value in zip(module, values, strict=True):
        parameter.grad = torch.tensor([value])
    assert grad_norm(module, 2)["grad_2.0_norm_total"].item() == pytest.approx(math.hypot(*values), rel=1e-4, abs=1e-6)
