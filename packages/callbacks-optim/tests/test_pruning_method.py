"""Each way of pruning against loops written by hand with torch.nn.utils.prune, classes of one's own among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pruned_runs import EveryOther, Net, Rows, by_hand, each, everything, fit, seeded
from torch import Tensor, nn
from torch.nn.utils import prune

from leyden import MisconfigurationException
from leyden.callbacks import ModelPruning


def together(method: Any, amount: Any) -> Callable[[nn.Module, int], None]:
    def prune_once(net: nn.Module, epoch: int) -> None:
        prune.global_unstructured(everything(net), method, amount=amount(epoch) if callable(amount) else amount)

    return prune_once


def half(epoch: int) -> float:
    return [0.5, 0.0, 0.25][epoch]


def together_without_amount(net: nn.Module, epoch: int) -> None:
    prune.global_unstructured(everything(net), EveryOther)


def half_of_each(net: nn.Module, epoch: int) -> None:
    for one, name in everything(net):
        prune.l1_unstructured(one, name, amount=half(epoch))  # type: ignore[no-untyped-call]


CASES: dict[str, tuple[dict[str, Any], Callable[[nn.Module, int], None]]] = {
    "l1, together": ({"pruning_fn": "l1_unstructured"}, together(prune.L1Unstructured, 0.5)),
    "l1 by class": ({"pruning_fn": prune.L1Unstructured}, together(prune.L1Unstructured, 0.5)),
    "l1, a count": ({"pruning_fn": "l1_unstructured", "amount": 7}, together(prune.L1Unstructured, 7)),
    "l1, a function": ({"pruning_fn": "l1_unstructured", "amount": half}, together(prune.L1Unstructured, half)),
    "l1, each": (
        {"pruning_fn": "l1_unstructured", "use_global_unstructured": False},
        each(prune.l1_unstructured, amount=0.5),
    ),
    "l1, each, a function": (
        {"pruning_fn": "L1_Unstructured", "use_global_unstructured": False, "amount": half},
        half_of_each,
    ),
    "random, together": ({"pruning_fn": "random_unstructured"}, together(prune.RandomUnstructured, 0.5)),
    "random, each by class": (
        {"pruning_fn": prune.RandomUnstructured, "use_global_unstructured": False, "amount": 0.3},
        each(prune.random_unstructured, amount=0.3),
    ),
    "ln": (
        {
            "pruning_fn": "ln_structured", "use_global_unstructured": False, "amount": 0.4, "pruning_dim": 0,
            "pruning_norm": 2,
        },
        each(prune.ln_structured, whole=True, amount=0.4, n=2, dim=0),
    ),
    "ln by class, a count": (
        {
            "pruning_fn": prune.LnStructured, "use_global_unstructured": False, "amount": 1, "pruning_dim": 1,
            "pruning_norm": float("inf"),
        },
        each(prune.ln_structured, whole=True, amount=1, n=float("inf"), dim=1),
    ),
    "random_structured": (
        {"pruning_fn": "random_structured", "use_global_unstructured": False, "amount": 0.4, "pruning_dim": -1},
        each(prune.random_structured, whole=True, amount=0.4, dim=-1),
    ),
    "random_structured by class": (
        {"pruning_fn": prune.RandomStructured, "use_global_unstructured": False, "amount": 0.4, "pruning_dim": 0},
        each(prune.random_structured, whole=True, amount=0.4, dim=0),
    ),
    "identity, each": ({"pruning_fn": "identity", "use_global_unstructured": False}, each(prune.identity)),
    "identity by class": ({"pruning_fn": prune.Identity}, each(prune.identity)),
    "a custom one, each": (
        {"pruning_fn": EveryOther, "use_global_unstructured": False},
        each(EveryOther.apply),
    ),
    "a custom one, together": ({"pruning_fn": EveryOther}, together_without_amount),
    "a custom structured one": (
        {"pruning_fn": Rows, "use_global_unstructured": False, "amount": 0.3},
        each(Rows.apply, whole=True, amount=0.3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_a_loop_by_hand(case: str) -> None:
    arguments, prune_once = CASES[case]
    module = Net()
    fit(module, seeded(), ModelPruning(**arguments, use_lottery_ticket_hypothesis=False))
    expected = by_hand(prune_once).state_dict()
    assert list(module.net.state_dict()) == list(Net().net.state_dict())
    for name, value in module.net.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_mask_of_another_shape_is_told_with_the_class() -> None:
    class Wrong(EveryOther):
        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            return default_mask[:1]

    with pytest.raises(MisconfigurationException, match=r"Wrong.compute_mask returned \(1, 4\)"):
        fit(Net(), ModelPruning(Wrong, use_global_unstructured=False))


def test_a_structured_class_that_does_not_say_its_dimension_is_told_at_the_first_pruning() -> None:
    class Vague(EveryOther):
        PRUNING_TYPE = "structured"

    class Clear(Vague):
        dim = 1

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            mask = default_mask.clone()
            mask[:, 0] = 0
            return mask

    with pytest.raises(MisconfigurationException, match="Vague is structured, but has no `dim`"):
        fit(Net(), ModelPruning(Vague, use_global_unstructured=False))
    pruning = ModelPruning(Clear, use_global_unstructured=False)
    fit(Net(), pruning, max_epochs=2)
    assert [one.pruned for one in pruning.sparsity()] == [2 * 6, 2 * 2]


def test_a_class_that_prunes_whole_tensors_at_once() -> None:
    class Threshold(prune.BasePruningMethod):
        PRUNING_TYPE = "global"

        def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
            return default_mask * (t.abs() > 0.2)

    module = Net()
    fit(module, ModelPruning(Threshold, use_global_unstructured=False, use_lottery_ticket_hypothesis=False))
    expected = by_hand(each(Threshold.apply)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in module.net.state_dict().items())
