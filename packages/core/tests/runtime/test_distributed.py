"""What strategies of several processes share, as far as one process shows it; else see `tests/test_parallel_*`."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from leyden import MisconfigurationException
from leyden.runtime.distributed import in_place_of
from leyden.runtime.places import Place
from leyden.strategies import DistributedStrategy

CPU = torch.device("cpu")


def test_a_step_says_what_it_takes() -> None:
    def step(batch: Any, batch_idx: int) -> Any:
        return batch

    replaced = in_place_of(step, lambda *args: len(args))
    assert inspect.signature(replaced) == inspect.signature(step)
    assert replaced("batch", 0) == 2


def test_where_a_process_stands() -> None:
    strategy = DistributedStrategy()
    strategy.connect(CPU, None)
    assert (strategy.global_rank, strategy.world_size, strategy.is_global_zero) == (0, 1, True)
    placed = DistributedStrategy()
    placed.connect(CPU, Place(0, 0, 0, 4, 2, "torchrun", "127.0.0.1", 1))
    assert (placed.world_size, placed.node_rank, placed.is_global_zero) == (4, 0, True)
    assert placed._default_backend() == "gloo"


def test_one_process_asks_nobody() -> None:
    strategy = DistributedStrategy()
    strategy.connect(CPU, None)
    strategy.begin_epoch(3)
    strategy.left_out(nn.Linear(1, 1), window_open=False)
    with strategy.evaluating(nn.BatchNorm1d(1), [3]):
        assert not dist.is_initialized()  # nor would there be anybody to ask
    assert (strategy.stops_behind(1), strategy.ends_behind(1), strategy.all_come("here")) == (True, True, True)


def test_nccl_is_refused_where_there_is_nothing_for_it_to_send() -> None:
    with pytest.raises(MisconfigurationException, match="sends what is on CUDA devices, and this run is on 'cpu'"):
        DistributedStrategy(process_group_backend="nccl").connect(CPU, None)


def test_operations_that_there_are() -> None:
    with pytest.raises(
        MisconfigurationException, match=r"strategy\.reduce\(reduce_op='median'\): expected one of 'mean'"
    ):
        DistributedStrategy().reduce(torch.ones(1), reduce_op="median")


@pytest.mark.parametrize("backend", ["", 3])
def test_a_backend_is_a_name(backend: Any) -> None:
    with pytest.raises(MisconfigurationException, match="expected 'nccl', 'gloo', … or None"):
        DistributedStrategy(process_group_backend=backend)
