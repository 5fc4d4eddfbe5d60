from __future__ import annotations

import pytest
import torch

from leyden.logging.buffer import FOLD_EVERY_VALUES, DeviceBuffer

CPU = torch.device("cpu")


def test_memory_is_flat() -> None:
    buffer = DeviceBuffer("mean", CPU)
    for i in range(10 * FOLD_EVERY_VALUES + 7):
        buffer.append(torch.tensor(float(i)), 1)
    values = buffer.state_dict()["values"]
    assert values.shape == (7,)


def test_different_sizes_weigh_differently() -> None:
    buffer = DeviceBuffer("mean", CPU)
    for value, size in [(1.0, 2), (10.0, 3)]:
        buffer.append(torch.tensor(value), size)
    assert buffer.total() == 32.0


def test_shapes_of_one_element_are_alike() -> None:
    buffer = DeviceBuffer("sum", CPU)
    for value in (torch.tensor(1.0), torch.tensor([2.0]), torch.tensor([[3.0]])):
        buffer.append(value, 1)
    assert buffer.total() == 6.0


def test_dtypes_may_differ() -> None:
    buffer = DeviceBuffer("max", CPU)
    for value in (torch.tensor(1, dtype=torch.int32), torch.tensor(2.5, dtype=torch.bfloat16), torch.tensor(True)):
        buffer.append(value, 1)
    assert buffer.total() == 2.5


def test_an_empty_buffer_has_no_total() -> None:
    with pytest.raises(AssertionError, match="empty"):
        DeviceBuffer("sum", CPU).total()
