"""Weights of a module that is pruned, by the names of one that is not, and the other way round."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from leyden_optim.pruned_weights import as_before, fit_weights, plain_weights


def pruned() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    prune.l1_unstructured(net[0], "weight", amount=2)  # type: ignore[no-untyped-call]
    return net


def test_only_the_names_asked_for_are_made_plain_and_the_rest_is_left() -> None:
    weights = pruned().state_dict()
    assert list(plain_weights(weights, ["0.weight"])) == ["0.bias", "0.weight", "1.weight", "1.bias"]
    assert plain_weights(weights, ["1.weight"]) == weights
    plain = plain_weights(weights, ["0.weight"])
    assert isinstance(plain, OrderedDict)
    assert torch.equal(plain["0.weight"], weights["0.weight_orig"] * weights["0.weight_mask"])
    assert plain._metadata == weights._metadata  # type: ignore[attr-defined]
    assert "0.weight_orig" in weights


def test_weights_of_before_the_first_pruning_have_its_names() -> None:
    weights, before = pruned().state_dict(), {"0.weight": torch.ones(2, 3), "1.weight": torch.ones(1, 2)}
    earlier = as_before(weights, before)
    assert list(earlier) == ["0.bias", "0.weight", "1.weight", "1.bias"]
    assert earlier["0.weight"] is before["0.weight"]
    assert earlier["1.weight"] is weights["1.weight"]  # which is merged by whoever takes the others of then


@pytest.mark.parametrize("module_is_pruned", [True, False])
@pytest.mark.parametrize("weights_are_pruned", [True, False])
def test_each_loads_the_others_weights(module_is_pruned: bool, weights_are_pruned: bool) -> None:
    source, target = pruned(), pruned() if module_is_pruned else nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    weights: dict[str, Tensor] = source.state_dict()
    if not weights_are_pruned:
        weights = plain_weights(weights, ["0.weight"])
    target.register_load_state_dict_pre_hook(fit_weights)  # type: ignore[no-untyped-call]
    target.load_state_dict(weights)
    rows = torch.eye(3)
    assert torch.equal(target(rows), source(rows))
