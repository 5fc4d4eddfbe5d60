"""What is sent between processes; that it arrives is shown by `tests/test_parallel_strategies`."""

from __future__ import annotations

import torch
from torch import nn

from leyden.runtime.collectives import saved_buffers


def test_buffers_that_are_saved_each_once() -> None:
    norm = nn.BatchNorm1d(2)
    norm.register_buffer("mask", torch.ones(2), persistent=False)
    assert [id(one) for one in saved_buffers(nn.Sequential(norm, nn.Sequential(norm)))] == [
        id(one) for one in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
    ]
