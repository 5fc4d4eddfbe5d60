"""Arguments of FSDPStrategy, and what it cannot do, said before anything runs; else see `tests/test_parallel_*`."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy

from leyden import MisconfigurationException, Trainer
from leyden.errors import UnknownArgumentError
from leyden.runtime.precision import Precision
from leyden.strategies import FSDPStrategy
from leyden.testing import BoringModule


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"warp": {nn.Linear}}, "Did you mean 'wrap'?"),
        ({"sharding_strategy": "FULL_SHARD"}, "Instead: write reshard_after_forward=True for 'FULL_SHARD', False"),
        ({"mixed_precision": 1}, "Instead: write mp_policy"),
        ({"activation_checkpointing_policy": {nn.Linear}}, "Instead: call torch.utils.checkpoint"),
    ],
)
def test_arguments_that_there_are_not(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownArgumentError, match=said):
        FSDPStrategy(**arguments)


@pytest.mark.parametrize("wrong", [{}, set(), nn.Linear, "Linear", {"Linear"}, {int}, lambda module: True, 3])
def test_what_is_no_policy(wrong: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"expected a set of nn\.Module classes, such as"):
        FSDPStrategy(wrap=wrong)


def test_a_policy_of_the_first_fsdp_is_none() -> None:
    with pytest.raises(MisconfigurationException, match="or a function of name and module"):
        FSDPStrategy(wrap=partial(size_based_auto_wrap_policy, min_num_params=10))
    with pytest.raises(MisconfigurationException, match=r"those of FSDP1\. Give the set of classes itself"):
        FSDPStrategy(auto_wrap_policy=ModuleWrapPolicy({nn.Linear}))  # type: ignore[arg-type]


def test_wrap_by_classes_or_by_a_function() -> None:
    classes, named = FSDPStrategy(auto_wrap_policy={nn.Linear}), FSDPStrategy(wrap=lambda name, one: name == "head")
    assert [classes.wrap("any", one) for one in (nn.Linear(1, 1), nn.ReLU())] == [True, False]
    assert [named.wrap(name, nn.ReLU()) for name in ("head", "body")] == [True, False]
    assert not FSDPStrategy().wrap("any", nn.Linear(1, 1))


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        FSDPStrategy(
            reshard_after_forward=2,  # type: ignore[arg-type]
            cpu_offload=None,  # type: ignore[arg-type]
            mp_policy="bf16",  # type: ignore[arg-type]
            wrap={nn.Linear},
            auto_wrap_policy={nn.Linear},
            state_dict_type="half",  # type: ignore[arg-type]
        )
    assert len(str(raised.value).splitlines()) == 5


def test_offloading_needs_a_device() -> None:
    with pytest.raises(MisconfigurationException, match="weights are in its memory anyway"):
        Trainer(strategy="fsdp_cpu_offload", accelerator="cpu", logger=False, discover_callbacks=False)


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("32-true", (None, None)),
        ("bf16-true", (None, None)),
        ("bf16-mixed", (torch.bfloat16, torch.float32)),
        ("16-mixed", (torch.float16, torch.float32)),
    ],
)
def test_dtypes_to_gather_and_reduce_in(name: str, dtypes: Any) -> None:
    """On a CUDA device autocast casts each weight anyway; CPU kernels of norms want 32 bits."""
    strategy = FSDPStrategy()
    strategy.precision = Precision(name, "cpu")
    assert strategy._mp_policy().param_dtype is None
    strategy.root_device = torch.device("cuda", 0)
    policy = strategy._mp_policy()
    assert (policy.param_dtype, policy.reduce_dtype) == dtypes
    own = FSDPStrategy(mp_policy=MixedPrecisionPolicy(param_dtype=torch.float16))
    own.precision = strategy.precision
    assert own._mp_policy().param_dtype is torch.float16


def test_optimizers_that_cannot_step_on_shards() -> None:
    module, strategy = nn.Linear(1, 1), FSDPStrategy()
    strategy.check_optimizers(module, [torch.optim.SGD(module.parameters(), lr=0.1)])
    with pytest.raises(MisconfigurationException, match="LBFGS, which lays all gradients end to end"):
        strategy.check_optimizers(module, [torch.optim.LBFGS(module.parameters())])
    with pytest.raises(MisconfigurationException, match=r"SGD has parameters that Linear has not.*before conf"):
        strategy.check_optimizers(module, [torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)])


def test_backends_of_what_is_offloaded() -> None:
    strategy = FSDPStrategy(cpu_offload=True)
    strategy.root_device = torch.device("cuda", 0)
    assert strategy._default_backend() == "cpu:gloo,cuda:nccl"


def test_a_policy_that_names_no_layer_is_told_of() -> None:
    strategy, module = FSDPStrategy(wrap={nn.Conv2d}), BoringModule()
    strategy.connect(torch.device("cpu"), None)
    strategy.begin(lambda: (0, 0), lambda: None, lambda: None)
    try:
        with pytest.warns(UserWarning, match=r"wrap=\.\.\.\) names no layer of BoringModule.*has layers of Linear"):
            strategy.setup_module(module)
    finally:
        dist.destroy_process_group()
