"""What processes must have alike, compared through a store: here by threads, each with the part of a process."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from leyden.runtime.facts import facts_of_module, first_differing, told_apart, wait_until


def compared(*facts: dict[str, str]) -> list[Any]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    found: list[Any] = [None] * len(facts)

    def give_up(time_is_up: bool) -> None:
        assert not time_is_up

    def compare(rank: int) -> None:
        wait = partial(wait_until, world_size=len(facts), timeout_s=60.0, give_up=give_up)
        found[rank] = first_differing(store, "begin", rank, len(facts), facts[rank], wait)

    threads = [threading.Thread(target=compare, args=(rank,)) for rank in range(len(facts))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return found


def test_all_know_who_differs_first() -> None:
    assert compared({"a": "1"}, {"a": "1"}, {"a": "1"}) == [None] * 3
    assert compared({"a": "1"}, {"a": "1"}, {"a": "2"}) == [(2, {"a": "1"}, {"a": "2"})] * 3
    assert compared({"a": "1"}, {"b": "1"}, {"a": "2"}) == [(1, {"a": "1"}, {"b": "1"})] * 3
    assert compared({}) == [None]


def test_who_waits_in_vain_is_told_when_time_is_up() -> None:
    asked: list[bool] = []

    def give_up(time_is_up: bool) -> None:
        asked.append(time_is_up)
        if time_is_up:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        wait_until(lambda: False, 2, 0.0, give_up)
    assert asked[-1]


def test_many_differences_are_counted() -> None:
    first, other = ({str(name): value for name in range(5)} for value in "xy")
    assert told_apart(4, first, other, at_most=1) == "0 is x in process 0 and y in process 4; and 4 more"


def test_facts_of_a_module() -> None:
    module = nn.Sequential(nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3, affine=False), nn.LazyLinear(1, bias=False))
    module[0].requires_grad_(False)
    module[0].register_buffer("rank", torch.zeros(1), persistent=False)
    assert facts_of_module(module) == {
        "0.weight": "a frozen parameter float32 of shape [3, 2]",
        "2.weight": "a trained parameter float32 without a shape yet",
        "1.running_mean": "a buffer float32 of shape [3]",
        "1.running_var": "a buffer float32 of shape [3]",
        "1.num_batches_tracked": "a buffer int64 of shape []",
    }
