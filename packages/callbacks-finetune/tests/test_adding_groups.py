"""Adding what is set free to an optimizer, and keeping schedulers in step with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer, lr_scheduler

from leyden_finetune import BaseFinetuning
from leyden_finetune.groups import describe_groups, name_new_parameters, rebuild_groups
from leyden_finetune.schedulers import adopt_new_groups, set_learning_rate


def parts() -> tuple[nn.Sequential, nn.Linear]:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Linear(2, 1)


def test_new_group_takes_a_fraction_of_the_first_groups_rate() -> None:
    backbone, head = parts()
    BaseFinetuning.freeze(backbone, train_bn=False)
    optimizer = SGD(head.parameters(), lr=0.5, momentum=0.9)
    BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]
    assert optimizer.param_groups[1]["params"] == list(backbone.parameters())
    assert optimizer.param_groups[1]["momentum"] == 0.9
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_given_rate_is_taken_as_it_is() -> None:
    backbone, head = parts()
    optimizer = SGD(head.parameters(), lr=0.5)
    BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer, lr=0.2, initial_denom_lr=100.0)
    assert optimizer.param_groups[1]["lr"] == 0.2


def test_without_train_bn_the_norm_is_frozen_and_not_added() -> None:
    backbone, head = parts()
    optimizer = SGD(head.parameters(), lr=0.5)
    BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer, train_bn=False)
    assert optimizer.param_groups[1]["params"] == list(backbone[0].parameters())
    assert not any(parameter.requires_grad for parameter in backbone[1].parameters())


def test_norm_that_was_trained_from_the_start_stays_in_its_group_without_a_warning() -> None:
    backbone, head = parts()
    BaseFinetuning.freeze(backbone)
    optimizer = SGD([*backbone[1].parameters(), *head.parameters()], lr=0.5)
    BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer)
    assert [len(group["params"]) for group in optimizer.param_groups] == [4, 2]


def test_what_the_optimizer_has_is_not_added_again() -> None:
    backbone, head = parts()
    optimizer = SGD([*backbone.parameters(), *head.parameters()], lr=0.5)
    with pytest.warns(UserWarning, match=r"2 of 2 parameters to be added to SGD are in it already"):
        BaseFinetuning.unfreeze_and_add_param_group(backbone[0], optimizer)
    assert len(optimizer.param_groups) == 1
    given = [next(head.parameters()), nn.Parameter(torch.ones(1))]
    with pytest.warns(UserWarning, match="1 of 2"):
        new = BaseFinetuning.filter_on_optimizer(optimizer, given)
    assert new == given[1:]


def test_optimizer_with_named_parameters() -> None:
    module = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    named = [(f"head.{name}", parameter) for name, parameter in module["head"].named_parameters()]
    optimizer = SGD(named, lr=0.5)
    BaseFinetuning.unfreeze_and_add_param_group(module["backbone"], optimizer)
    assert optimizer.param_groups[1]["param_names"] == ["group1.0", "group1.1"]  # an optimizer knows no module
    name_new_parameters(optimizer, module)
    assert optimizer.param_groups[1]["param_names"] == ["backbone.weight", "backbone.bias"]

    fresh = SGD(named, lr=0.1)
    rebuild_groups(fresh, describe_groups(optimizer, module), module)
    assert fresh.param_groups[1]["param_names"] == ["backbone.weight", "backbone.bias"]
    fresh.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in fresh.param_groups] == [0.5, 0.05]


def test_parameters_that_the_module_does_not_hold_are_found_by_their_order() -> None:
    module, stranger = nn.Linear(2, 2), nn.Parameter(torch.ones(1))
    optimizer = Adam([{"params": [module.weight, stranger], "name": "first"}], lr=0.1)
    optimizer.add_param_group({"params": [module.bias], "name": "second", "lr": torch.tensor(0.3)})
    described = describe_groups(optimizer, module)
    assert [group["params"] for group in described] == [["weight", None], ["bias"]]

    fresh = Adam([{"params": [stranger, module.weight], "name": "first"}], lr=0.1)
    rebuild_groups(fresh, described, module)
    assert [group["name"] for group in fresh.param_groups] == ["first", "second"]
    assert fresh.param_groups[0]["params"][1] is stranger
    assert fresh.param_groups[1]["lr"] == torch.tensor(0.3)
    described[1]["lr"].fill_(9.0)
    assert fresh.param_groups[1]["lr"] == torch.tensor(0.3)


def stepped(optimizer: Optimizer, scheduler: Any, times: int) -> None:
    for _ in range(times):
        optimizer.step()
        scheduler.step()


def test_rate_that_was_set_is_where_the_schedule_goes_on() -> None:
    backbone, head = parts()
    optimizer = SGD(head.parameters(), lr=torch.tensor(0.1))
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer, lr=0.01)
    adopt_new_groups([scheduler], optimizer)
    set_learning_rate([scheduler], optimizer, 1, 0.04)
    stepped(optimizer, scheduler, 1)
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.05, 0.02])
    set_learning_rate([scheduler], optimizer, 0, 0.5)
    assert optimizer.param_groups[0]["lr"].shape == ()
    assert float(optimizer.param_groups[0]["lr"]) == 0.5


@pytest.mark.parametrize("lr", [None, 0.01])
def test_group_that_comes_as_a_warm_up_begins_at_zero_keeps_its_proportion(lr: float | None) -> None:
    backbone, head = parts()
    optimizer = SGD(head.parameters(), lr=0.1)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
    BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer, lr=lr)
    adopt_new_groups([scheduler], optimizer)
    adopt_new_groups([scheduler], optimizer)
    if lr is None:
        set_learning_rate([scheduler], optimizer, 1, 0.0)  # what is 0 already tells no factor
    stepped(optimizer, scheduler, 4)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]


def test_name_of_a_group_is_one_that_no_other_has() -> None:
    optimizer = SGD([{"params": [nn.Parameter(torch.ones(1))], "name": "head"}], lr=0.1)
    for _ in range(3):
        BaseFinetuning.unfreeze_and_add_param_group(nn.Linear(2, 2), optimizer, name="head")
    BaseFinetuning.unfreeze_and_add_param_group(nn.Linear(2, 2), optimizer)
    assert [group.get("name") for group in optimizer.param_groups] == ["head", "head-2", "head-3", "head-4", None]


def test_schedulers_of_others_are_left_alone() -> None:
    backbone, head = parts()
    optimizer = SGD(head.parameters(), lr=0.1)
    other = lr_scheduler.StepLR(SGD(backbone.parameters(), lr=1.0), 1)

    class Own:
        optimizer: Any = None

    own = Own()
    own.optimizer = optimizer
    BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer)
    adopt_new_groups([other, own], optimizer)
    assert len(other.base_lrs) == 1
