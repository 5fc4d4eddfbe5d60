"""Parameter groups by the names of their parameters, which pruning changes in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

from leyden_finetune.groups import describe_groups, named_parameters, rebuild_groups


def test_names_are_those_of_the_module_without_masks() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    names = [name for name, _ in module.named_parameters()]
    module[1].register_parameter("bias_orig", nn.Parameter(torch.ones(1)))  # of the user's own, without a mask
    prune.l1_unstructured(module[0], "weight", amount=1)  # type: ignore[no-untyped-call]
    named = named_parameters(module)
    assert sorted(named) == sorted([*names, "1.bias_orig"])
    assert named["0.weight"] is module[0].weight_orig


def test_groups_of_a_masked_module_fit_the_plain_one_and_the_other_way_round() -> None:
    plain, masked = nn.Linear(2, 2), prune.identity(nn.Linear(2, 2), "weight")  # type: ignore[no-untyped-call]
    for one, other in ((plain, masked), (masked, plain)):
        groups: list[dict[str, Any]] = [
            {"params": [named_parameters(one)["weight"]], "lr": 0.5},
            {"params": [one.bias]},
        ]
        held = torch.optim.SGD(groups)
        described = describe_groups(held, one)
        assert [group["params"] for group in described] == [["weight"], ["bias"]]
        fresh = torch.optim.SGD(other.parameters(), lr=0.1)
        rebuild_groups(fresh, described, other)
        assert [group["params"] for group in fresh.param_groups] == [[named_parameters(other)["weight"]], [other.bias]]
        assert [group["lr"] for group in fresh.param_groups] == [0.5, 0.001]
