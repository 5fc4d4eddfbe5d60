"""Every callback of the optim family with BatchNorm, with manual optimisation and with two optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cut_runs import Manual, Net, Setting, ends, train
from tests.test_resume_each_callback import CASES, Long, Slow
from torch import Tensor, nn

from leyden.callbacks import BackboneFinetuning, families
from leyden.errors import MisconfigurationException

Differences = Callable[[Any, Any], Iterable[str]]

OPTIM = families()["leyden-callbacks-optim"]


class ByHand(Net):
    """One optimizer that the training step drives."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()["optimizer"]


class TwoAtOnce(Manual):
    """Two optimizers, of which nobody says when they step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return Net.training_step(self, batch, batch_idx)


class FrozenNorm(Net):
    """BatchNorm that is to keep the statistics it came with."""

    def __init__(self) -> None:
        super().__init__()
        norm: Any = self.backbone[1].eval().requires_grad_(False)
        norm.running_mean.fill_(0.1)


def with_module(name: str, net: type[Net]) -> Setting:
    """Return the callback's case with a module of this kind, which has what the callback searches for."""
    needed = {"BatchSizeFinder": Long, "LearningRateFinder": Slow}.get(name, Net)
    return replace(CASES[name], net=needed if net is Net else type(net.__name__, (net, needed), {}))


def norm_of(module: Any) -> Any:
    """Return the module's BatchNorm, which may be fused with the layer before it; None in an int8 module."""
    return next((part for part in module.modules() if isinstance(part, nn.BatchNorm1d)), None)


MODULES = {"batch norm": Net, "frozen batch norm": FrozenNorm, "manual": ByHand, "two optimizers": Manual}

REFUSED = {
    ("GradientAccumulationScheduler", "manual"): "count batches in training_step instead, and leave the callback out",
    ("LearningRateFinder", "manual"): "Leave the finder out and choose the rate by hand",
}
REFUSED |= {(name, "two optimizers"): reason for (name, _), reason in REFUSED.items()}  # which go by hand, too

BATCHES_IN_STATISTICS = {
    "EarlyStopping": 5 + 5 + 5 + 2,
    "EMAWeightAveraging": 17,  # of 20: the average of such counts, rounded down at each update
    "StochasticWeightAveraging": 5,  # of the pass after the end
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("name", OPTIM)
def test_on_any_module(name: str, kind: str, tmp_path: Path, named_differences: Differences) -> None:
    setting = with_module(name, MODULES[kind])
    if reason := REFUSED.get((name, kind)):
        with pytest.raises(MisconfigurationException, match=reason):
            train(tmp_path, setting)
        return
    runs = ends(tmp_path, setting)
    _, _, module, whole = next(runs)
    if kind != "batch norm":  # which is in test_resume_each_callback
        for how, _, _, resumed in runs:
            assert not list(named_differences(resumed, whole)), how
    norm = norm_of(module)
    assert norm is None if name == "QuantizationAwareTraining" else norm.momentum == 0.1
    trained = {key.rpartition(".")[2]: value for key, value in whole["end"]["state_dict"].items()}
    if kind == "frozen batch norm":
        assert torch.equal(trained["running_mean"], torch.full((4,), 0.1))
        assert torch.equal(trained["running_var"], torch.ones(4))
    else:
        assert trained["num_batches_tracked"] == BATCHES_IN_STATISTICS.get(name, 20)
        assert not torch.equal(trained["running_mean"], torch.zeros(4))


@pytest.mark.parametrize("name", OPTIM)
def test_two_optimizers_that_nobody_steps(name: str, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="2 optimizers"):
        train(tmp_path, with_module(name, TwoAtOnce))


def test_a_batch_norm_that_finetuning_holds_frozen_is_so_when_it_is_fused(
    tmp_path: Path, named_differences: Differences
) -> None:
    both = Setting(lambda folder: [BackboneFinetuning(1, train_bn=False)]).beside(CASES["QuantizationAwareTraining"])
    runs = ends(tmp_path, both)
    _, _, _, whole = next(runs)
    assert torch.equal(whole["end"]["state_dict"]["backbone.0.bn.running_mean"], torch.zeros(4))
    for how, _, _, resumed in runs:
        assert not list(named_differences(resumed, whole)), how
