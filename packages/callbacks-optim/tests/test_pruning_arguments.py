"""What ModelPruning refuses: arguments that cannot work, and those that do not fit the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from pruned_runs import EveryOther, Net, fit
from torch import nn
from torch.nn.utils import prune

from leyden import MisconfigurationException
from leyden.callbacks import LambdaCallback, ModelPruning

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"pruning_fn": "l1_unstructred"}, r"expected one of 'l1_unstructured'.* Did you mean 'l1_unstructured'\?"),
    ({"pruning_fn": nn.Linear}, "expected a name or a subclass of torch.nn.utils.prune.BasePruningMethod"),
    ({"pruning_fn": EveryOther()}, "the class, not an instance"),
    ({"pruning_fn": prune.l1_unstructured}, r"Give the name of this function, 'l1_unstructured'"),
    ({"pruning_fn": "ln_structured", "pruning_dim": 0, "pruning_norm": 2}, "Set use_global_unstructured=False"),
    ({"pruning_fn": "ln_structured", "use_global_unstructured": False, "pruning_norm": 2}, "pruning_dim=None"),
    ({"pruning_fn": "ln_structured", "use_global_unstructured": False, "pruning_dim": 0}, "pruning_norm=None"),
    ({"pruning_fn": "random_structured", "use_global_unstructured": False}, "pruning_dim=None"),
    ({"pruning_fn": "l1_unstructured", "amount": 1.5}, "amount=1.5: expected a fraction"),
    ({"pruning_fn": "l1_unstructured", "amount": -1}, "amount=-1: expected"),
    ({"pruning_fn": "l1_unstructured", "amount": True}, "amount=True: expected"),
    ({"pruning_fn": "l1_unstructured", "amount": lambda: 0.5}, "or a function of the epoch"),
    ({"pruning_fn": "l1_unstructured", "apply_pruning": lambda: True}, "such as lambda epoch: epoch < 5"),
    ({"pruning_fn": "l1_unstructured", "verbose": 3}, "verbose=3: expected 0, 1 or 2"),
    ({"pruning_fn": "l1_unstructured", "apply_pruning": "yes"}, "apply_pruning='yes': expected True, False or a func"),
    ({"pruning_fn": "l1_unstructured", "parameter_names": "weight"}, r"expected a list of names, such as \['weight'\]"),
    ({"pruning_fn": "l1_unstructured", "parameters_to_prune": ["net.0"]}, "expected a list of pairs"),
    ({"pruning_fn": "l1_unstructured", "parameter_names": 5}, "parameter_names=5: expected a list of names"),
    ({"pruning_fn": "l1_unstructured", "parameter_names": iter(["bias"])}, "expected a list of names"),
    ({"pruning_fn": "l1_unstructured", "pruning_dim": 0.5}, "pruning_dim=0.5: expected an int or None"),
    ({"pruning_fn": "l1_unstructured", "pruning_norm": "max"}, "pruning_norm='max': expected a number, 'fro', 'nuc'"),
    ({"pruning_fn": "l1_unstructured", "pruning_norm": math.nan}, "pruning_norm=nan: expected a number"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_arguments_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        ModelPruning(**arguments)


def test_all_mistakes_are_told_together_and_a_method_that_needs_more_is_refused() -> None:
    class Needs(EveryOther):
        def __init__(self, threshold: float) -> None:
            self.threshold = threshold

    class Untyped(EveryOther):
        PRUNING_TYPE = "sideways"

    with pytest.raises(MisconfigurationException) as caught:
        ModelPruning(Needs, amount=2.0, verbose=7)
    assert [line[:24] for line in str(caught.value).splitlines()[1:]] == [
        "  - pruning_fn=Needs: it",
        "  - amount=2.0: expected",
        "  - verbose=7: expected ",
    ]
    with pytest.raises(MisconfigurationException, match="its PRUNING_TYPE is 'sideways'"):
        ModelPruning(Untyped)
    with pytest.warns(UserWarning, match="does nothing with use_lottery_ticket_hypothesis=False"):
        ModelPruning("identity", use_lottery_ticket_hypothesis=False, resample_parameters=True)
    with pytest.warns(UserWarning, match=r"\(pruning_dim=0\) does nothing with pruning_fn='l1_unstructured'"):
        ModelPruning("l1_unstructured", pruning_dim=0)
    with pytest.warns(UserWarning, match=r"\(pruning_norm=2\) does nothing with pruning_fn='random_structured'"):
        structured(pruning_norm=2)


def structured(**arguments: Any) -> ModelPruning:
    return ModelPruning("random_structured", use_global_unstructured=False, **{"pruning_dim": 1, **arguments})


UNFIT: list[tuple[Callable[[], ModelPruning], str]] = [
    (lambda: ModelPruning("identity", parameter_names=["wieght"]), "no layer of Net has a parameter named 'wieght'"),
    (lambda: ModelPruning("identity", [("net.7", "weight")]), "there is no layer 'net.7'"),
    (lambda: ModelPruning("identity", [("net.0", "wight")]), "it has: weight, bias. Did you mean 'weight'"),
    (lambda: ModelPruning("identity", [(nn.Linear(1, 1), "weight")]), "is no part of this model"),
    (lambda: ModelPruning("l1_unstructured", amount=57), "there are 56 weights in all, fewer than amount=57"),
    (
        lambda: ModelPruning("l1_unstructured", use_global_unstructured=False, amount=3),
        "net.3.bias has 2 weights, fewer than amount=3",
    ),
    (lambda: structured(amount=5), "net.0.weight has 4 slices along pruning_dim=1, fewer than amount=5"),
    (lambda: structured(parameter_names=["bias"]), r"net.0.bias has the shape \(6,\), without slices"),
    (lambda: structured(pruning_dim=2), r"net.0.weight has the shape \(6, 4\), and no dimension 2: give pruning_dim=0"),
    (
        lambda: ModelPruning("ln_structured", None, None, False, pruning_dim=0, pruning_norm="nuc"),
        r"net.0.weight has the shape \(6, 4\), of whose slices torch has no norm 'nuc': give a number, such as 2",
    ),
]


@pytest.mark.parametrize(("make", "message"), UNFIT)
def test_what_does_not_fit_the_model_is_refused_as_fit_starts(make: Callable[[], ModelPruning], message: str) -> None:
    steps: list[int] = []
    noting = LambdaCallback(on_train_batch_start=lambda trainer, pl_module, batch, batch_idx: steps.append(batch_idx))
    with pytest.raises(MisconfigurationException, match=message):
        fit(Net(), make(), noting)
    assert not steps


def test_a_count_that_is_more_than_what_is_left_is_told_and_changes_nothing() -> None:
    module = Net()
    pruning = ModelPruning("l1_unstructured", amount=25)
    with pytest.raises(MisconfigurationException, match=r"amount=25\) cannot prune on after 89.3 % was pruned"):
        fit(module, pruning)
    assert pruning.total_sparsity() == pytest.approx(50 / 56)


def test_a_function_that_returns_no_amount_is_told_with_the_epoch() -> None:
    with pytest.raises(MisconfigurationException, match=r"returned 1.5 for epoch 1"):
        fit(Net(), ModelPruning("l1_unstructured", amount=lambda epoch: 0.5 + epoch))
