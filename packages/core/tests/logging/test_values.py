from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from leyden.logging.values import check_tensor, is_collection, is_metric, plain_number


@pytest.mark.parametrize(
    "value", [True, np.float32(1), np.float64(1), np.int8(1), np.bool_(True), Fraction(1), Decimal(1), np.array(1.0)]
)
def test_numbers_of_every_kind(value: Any) -> None:
    assert plain_number("x", value) == 1.0
    assert type(plain_number("x", value)) is float


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (None, "NoneType: None"),
        ("0.5", "str: '0.5'"),
        ({"a": 1}, "self.log_dict"),
        ([1, 2], "list"),
        (1j, "complex"),
        (np.ones(3), r"self.log\('x', value.mean\(\)\)"),
        ("x" * 100, r"xxx\.\.\."),
        pytest.param(10**400, r"beyond the range of a float: 10000+\.\.\.", id="400 digits"),
        pytest.param(10**5000, r"beyond the range of a float: <int object", id="5000 digits"),
    ],
)
def test_everything_else_is_an_error_that_says_what_it_was(value: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"(?s)self.log\('x', ...\).*{hint}"):
        plain_number("x", value)


def test_tensors_have_one_real_element() -> None:
    check_tensor("x", torch.tensor([[1.0]]))
    with pytest.raises(ValueError, match=r"shape \(3,\).*value.mean"):
        check_tensor("x", torch.ones(3))
    with pytest.raises(ValueError, match="complex"):
        check_tensor("x", torch.tensor(1j))


def test_plain_values_are_no_metrics() -> None:
    assert not is_metric(1.0)
    assert not is_collection({})
