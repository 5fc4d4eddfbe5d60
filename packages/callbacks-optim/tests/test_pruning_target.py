"""A weight masked, reset and made permanent, in layers of several kinds."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

from leyden_optim.pruning_selection import select, targets_of
from leyden_optim.pruning_target import Target, make_permanent, resampled, trained_parameter


def targets(module: nn.Module, *names: str) -> list[Target]:
    return targets_of(module, select(module, names=names))


def checkered(target: Target) -> torch.Tensor:
    mask = torch.ones_like(target.parameter)
    mask.view(-1)[::2] = 0
    return mask


def test_parameters_stay_the_same_and_keep_their_order() -> None:
    layer = nn.Linear(3, 2)
    before = dict(layer.named_parameters())
    (target,) = targets(layer, "weight")
    target.apply(checkered(target))
    assert list(layer.state_dict()) == ["weight_orig", "bias", "weight_mask"]
    assert layer.weight_orig is before["weight"] is target.parameter is trained_parameter(layer, "weight")
    target.apply(checkered(target))
    assert len(layer._forward_pre_hooks) == 1
    target.remove()
    assert [id(one) for one in layer.parameters()] == [id(one) for one in before.values()]
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not layer._forward_pre_hooks
    assert layer.weight.view(-1)[::2].count_nonzero() == 0
    pickle.dumps(layer)


def test_a_recurrent_layer_computes_and_trains_with_its_masked_weights() -> None:
    torch.manual_seed(0)
    layer: Any = nn.LSTM(3, 2)
    rows = torch.randn(4, 1, 3)
    expected = copy.deepcopy(layer)
    (target,) = targets(layer, "weight_ih_l0")
    target.apply(checkered(target))
    with torch.no_grad():
        expected.weight_ih_l0.mul_(checkered(target))
    assert torch.equal(layer(rows)[0], expected(rows)[0])
    layer(rows)[0].sum().backward()
    assert target.parameter.grad is not None
    assert target.parameter.grad.view(-1)[::2].count_nonzero() == 0
    target.remove()
    assert torch.equal(layer(rows)[0], expected(rows)[0])


def test_a_resampled_copy_leaves_the_layer_alone() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.norm = nn.BatchNorm1d(2)

        def reset_parameters(self) -> None:
            self.inner.reset_parameters()
            self.norm.reset_parameters()

    block: Any = Block()
    (target,) = targets_of(block, [(block.inner, "weight")])
    target.apply(checkered(target))
    block.inner(torch.ones(1, 2))  # its weight has a graph now, which torch refuses to copy
    block.norm(torch.randn(4, 2))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    twin = resampled(block)
    assert twin is not None
    assert sorted(twin.state_dict()) == sorted(nn.Module.state_dict(Block()))
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert not torch.equal(dict(twin.named_parameters())["inner.weight"], target.parameter)
    assert resampled(nn.ReLU()) is None


def test_masks_that_torch_made_are_taken_on_and_removed() -> None:
    layer = nn.Linear(3, 2)
    for _ in range(3):
        prune.l1_unstructured(layer, "weight", amount=1)  # type: ignore[no-untyped-call]
    (target,) = targets(layer, "weight")
    assert target.mask is not None
    assert int(target.mask.sum()) == 3
    target.apply(checkered(target))
    make_permanent(layer)
    assert not prune.is_pruned(layer)
    assert int(layer.weight.count_nonzero()) == 3


def test_shared_weights_are_one_target_whichever_layer_is_given() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    net = nn.Sequential(first, second, first)
    for pair in ((first, "weight"), (second, "weight")):
        (target,) = targets_of(net, [pair])
        assert target.names == ["0.weight", "1.weight", "2.weight"]
        assert [layer for layer, _ in target.holders] == [first, second]
    target.apply(checkered(target))
    assert first.weight_orig is second.weight_orig
    target.remove()
    assert first.weight is second.weight
