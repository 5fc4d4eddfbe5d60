"""What `strategy=` names, and what to write instead of what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from leyden import MisconfigurationException, Trainer
from leyden.runtime.choose import choose_strategy
from leyden.strategies import DDPStrategy, DistributedStrategy, FSDPStrategy, SingleDeviceStrategy, Strategy


@pytest.mark.parametrize(
    ("name", "processes", "kind"),
    [
        ("auto", 1, SingleDeviceStrategy),
        ("auto", 2, DDPStrategy),
        ("single_device", 1, SingleDeviceStrategy),
        ("ddp", 1, DDPStrategy),
        ("ddp", 2, DDPStrategy),
        ("ddp_find_unused_parameters_true", 2, DDPStrategy),
        ("ddp_find_unused_parameters_false", 2, DDPStrategy),
        ("ddp_spawn", 2, DDPStrategy),
        ("ddp_notebook_find_unused_parameters_true", 2, DDPStrategy),
        ("fsdp", 2, FSDPStrategy),
        ("fsdp_cpu_offload", 2, FSDPStrategy),
    ],
)
def test_names(name: str, processes: int, kind: type[Strategy]) -> None:
    assert type(choose_strategy(name, processes)) is kind


def test_names_that_say_more() -> None:
    searching, plain = choose_strategy("ddp_find_unused_parameters_true", 2), choose_strategy("ddp", 2)
    assert isinstance(searching, DDPStrategy)
    assert searching.find_unused_parameters is True
    assert isinstance(plain, DDPStrategy)
    assert plain.find_unused_parameters is None
    offloading = choose_strategy("fsdp_cpu_offload", 2)
    assert isinstance(offloading, FSDPStrategy)
    assert offloading.cpu_offload


def test_an_instance_is_taken_as_it_is() -> None:
    own = Strategy()
    assert choose_strategy(own, 2) is own


class Unmade(DistributedStrategy):
    def __init__(self) -> None:
        """Forget what the base class makes."""


def test_an_instance_that_is_not_made_whole() -> None:
    with pytest.raises(MisconfigurationException, match=r"Unmade\.__init__ has not called super\(\)\.__init__\(\)"):
        Trainer(strategy=Unmade())


def test_a_strategy_for_one_process_is_refused_where_there_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(MisconfigurationException, match=r"Strategy.* takes itself for 1 process, and there are 2"):
        Trainer(strategy=Strategy(), accelerator="cpu")


@pytest.mark.parametrize("wrong", ["dpp", None, Strategy, 3])
def test_what_is_no_strategy(wrong: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(strategy=.*\): expected 'auto', 'single_dev"):
        choose_strategy(wrong, 1)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fsdp2", "Did you mean 'fsdp'"),
        ("DDP", "Did you mean 'ddp'"),
        ("deepspeed_stage_3", "Instead of 'deepspeed_stage_3': its stages 1 to 3 are 'fsdp'"),
        ("dp", "write 'ddp', with a process for each device"),
        ("xla_debug", "TPUs are not supported"),
        ("ddp_sharded", "write 'fsdp'"),
    ],
)
def test_names_of_others_say_what_to_take_instead(name: str, hint: str) -> None:
    with pytest.raises(MisconfigurationException, match=hint):
        Trainer(strategy=name)


def test_one_process_only_is_refused_for_two() -> None:
    with pytest.raises(MisconfigurationException, match="is for one process, and there are 2"):
        choose_strategy("single_device", 2)
