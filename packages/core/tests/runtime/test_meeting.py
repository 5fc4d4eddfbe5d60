"""Groups that are made and given up here, and those of a script; for several processes see `test_parallel_failures`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch.distributed as dist

from leyden import MisconfigurationException
from leyden.runtime.meeting import give_up, join
from leyden.runtime.places import Place
from leyden.strategies import DistributedStrategy

ALONE = Place(0, 0, 0, 1, 1, "leyden", "127.0.0.1", 0)
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _no_group() -> Iterator[None]:
    assert not dist.is_initialized()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_a_group_is_joined_once_and_anew_after_it_was_given_up() -> None:
    join(ALONE, "gloo", MINUTE)
    first = dist.group.WORLD
    join(ALONE, "gloo", MINUTE)
    assert dist.group.WORLD is first
    give_up()
    assert dist.group.WORLD is first  # weights in shards are read in it
    join(ALONE, "gloo", MINUTE)
    second = dist.group.WORLD
    assert second is not first
    join(ALONE, "gloo", MINUTE)
    assert dist.group.WORLD is second


def test_a_strategy_that_outlives_a_group_makes_its_own_beside_the_next() -> None:
    strategy = DistributedStrategy()
    join(ALONE, "gloo", MINUTE)
    beside = strategy.group_beside()
    assert strategy.group_beside() is beside
    give_up()
    join(ALONE, "gloo", MINUTE)
    assert strategy.group_beside() is not beside


def test_a_group_of_the_script_is_taken_and_not_left() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    group = dist.group.WORLD
    join(ALONE, "gloo", MINUTE)
    give_up()
    join(ALONE, "gloo", MINUTE)
    assert dist.group.WORLD is group


def test_nothing_keeps_a_group_that_is_left() -> None:
    """Its connections, by whose end others learn that a process has left, live as long as it does."""
    code = (
        "import weakref, torch.distributed as dist\n"
        "from datetime import timedelta\n"
        "from leyden.runtime.meeting import give_up, join\n"
        "from leyden.runtime.places import Place\n"
        "alone = Place(0, 0, 0, 1, 1, 'leyden', '127.0.0.1', 0), 'gloo', timedelta(minutes=1)\n"
        "join(*alone)\n"
        "import torch.distributed.nn.functional, torch._dynamo\n"
        "group = weakref.ref(dist.group.WORLD)\n"
        "give_up()\n"
        "join(*alone)\n"
        "print(group())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "None\n"


def test_a_group_of_the_script_with_other_numbers_is_refused() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    with pytest.raises(MisconfigurationException, match=r"process 0 of 1, the environment as 1 of 2\. Leave out torch"):
        join(Place(1, 1, 0, 2, 1, "torchrun", "127.0.0.1", 1), "gloo", MINUTE)
