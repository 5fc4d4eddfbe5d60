"""Arguments of DDPStrategy, checked where they are given; what it does in two processes: `tests/test_parallel_*`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, fp16_compress_wrapper

from leyden import MisconfigurationException
from leyden.errors import UnknownArgumentError
from leyden.strategies import DDPStrategy


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"find_unused_parameter": True},
            r"find_unused_parameter=True\): there.* Did you mean 'find_unused_parameters'\?",
        ),
        ({"gradient_as_bucket_views": True}, "Did you mean 'gradient_as_bucket_view'?"),
        ({"model_averaging_period": 2}, "Instead: averages of weights are a callback's: WeightAveraging."),
        ({"parallel_devices": [0]}, r"Instead: write Trainer\(devices=...\)"),
        ({"device_ids": [0]}, "each process has one device"),
        ({"mixed_precision": 1}, r"Instead: write Trainer\(precision=...\)"),
    ],
)
def test_options_that_there_are_not(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownArgumentError, match=said):
        DDPStrategy(**arguments)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        DDPStrategy(
            static_graph=1,  # type: ignore[arg-type]
            find_unused_parameters="yes",  # type: ignore[arg-type]
            ddp_comm_hook=lambda bucket: bucket,
        )
    assert str(raised.value).splitlines() == [
        "DDPStrategy(find_unused_parameters='yes'): expected True, False or None.",
        "DDPStrategy(static_graph=1): expected True or False.",
        next(line for line in str(raised.value).splitlines() if "expected a function of a state and a bucket" in line),
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bucket_cap_mb": "25"}, r"bucket_cap_mb='25'\): expected a number of MiB above 0"),
        ({"bucket_cap_mb": 0}, r"bucket_cap_mb=0\): expected a number of MiB above 0"),
        ({"gradient_as_bucket_view": "no"}, r"gradient_as_bucket_view='no'\): expected True or False"),
    ],
)
def test_values_of_torchs_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        DDPStrategy(**options)


@pytest.mark.parametrize("timeout", [timedelta(0), timedelta(seconds=-1), 30])
def test_a_timeout_is_a_time(timeout: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"expected a timedelta above 0, such as timedelta\(minutes=30"):
        DDPStrategy(timeout=timeout)


def test_a_wrapper_needs_a_hook() -> None:
    with pytest.raises(MisconfigurationException, match="a function of a hook, beside ddp_comm_hook"):
        DDPStrategy(ddp_comm_wrapper=fp16_compress_wrapper)
    hook: Any = DDPStrategy(ddp_comm_hook=allreduce_hook, ddp_comm_wrapper=fp16_compress_wrapper).ddp_comm_hook
    assert hook.__name__ == "fp16_compress_wrapper_hook"


def test_options_are_passed_on() -> None:
    strategy = DDPStrategy(bucket_cap_mb=1, gradient_as_bucket_view=True, broadcast_buffers=False)
    assert strategy.options == {
        "static_graph": False, "bucket_cap_mb": 1, "gradient_as_bucket_view": True, "broadcast_buffers": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"bucket_cap_mb": "a"}, "expected a number of MiB above 0, or None"),
        ({"bucket_cap_mb": -1}, "expected a number of MiB above 0, or None"),
        ({"broadcast_buffers": "no"}, r"broadcast_buffers='no'\): expected True or False"),
        ({"gradient_as_bucket_view": 1}, r"gradient_as_bucket_view=1\): expected True or False"),
        ({"dim": "x"}, r"dim='x'\): expected an int"),
        ({"ddp_comm_state": 3}, "expected a ddp_comm_hook beside it"),
        ({"process_group_backend": "glue"}, "'glue'.*expected 'nccl', 'gloo', … or None"),
    ],
)
def test_options_of_the_wrong_kind(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        DDPStrategy(**arguments)


def test_options_that_may_be_none_or_for_each_device() -> None:
    strategy = DDPStrategy(bucket_cap_mb=None, process_group_backend="cpu:gloo,cuda:nccl")
    assert strategy.options == {"static_graph": False, "bucket_cap_mb": None}
