"""Groups that are made and left here, and those of a script; for several processes see `test_parallel_failures`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from leyden import MisconfigurationException
from leyden.runtime.meeting import join, part
from leyden.runtime.places import Place

ALONE = Place(0, 0, 0, 1, 1, "leyden", "127.0.0.1", 0)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _no_group() -> Iterator[None]:
    assert not dist.is_initialized()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_is_joined_once_and_anew_after_it_has_been_left() -> None:
    join(ALONE, "gloo", MINUTE)
    first = dist.group.WORLD
    join(ALONE, "gloo", MINUTE)
    assert dist.group.WORLD is first
    part()
    assert not dist.is_initialized()
    part()
    join(ALONE, "gloo", MINUTE)
    assert dist.group.WORLD is not first


def test_a_group_of_the_script_is_taken_and_not_left() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    join(ALONE, "gloo", MINUTE)
    part()
    assert dist.is_initialized()


def test_a_group_of_the_script_with_other_numbers_is_refused() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    with pytest.raises(MisconfigurationException, match=r"process 0 of 1, the environment as 1 of 2\. Leave out torch"):
        join(Place(1, 1, 0, 2, 1, "torchrun", "127.0.0.1", 1), "gloo", MINUTE)
