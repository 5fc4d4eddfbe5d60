"""What freezing does to modules: flags, BatchNorm in and out of `.train()`, copies and pickles."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden_finetune import BaseFinetuning
from leyden_finetune.freezing import is_frozen_norm


class Gain(nn.Module):
    """Has a parameter of its own beside a child."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.layer = nn.Linear(2, 2)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.gain * self.layer(rows)
        return out


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(Gain(), nn.ModuleDict({"a": nn.BatchNorm1d(2)}))
    )


def trainable(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def test_flatten_takes_leaves_and_holders_of_parameters_once() -> None:
    net = network()
    linear, norm, inner = net[0], net[1], net[2]
    assert isinstance(inner, nn.Sequential)
    gain: Any = inner[0]
    flat = BaseFinetuning.flatten_modules([net, [norm, nn.ModuleDict({"b": linear})]])
    assert flat == [linear, norm, gain, gain.layer, inner[1]["a"]]  # type: ignore[index]


@pytest.mark.parametrize("nonsense", ["layer", 3, None])
def test_what_is_no_module(nonsense: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module or a list of them, got"):
        BaseFinetuning.freeze(nonsense)


def test_freeze_leaves_batch_norm_unless_told_otherwise() -> None:
    net = network()
    BaseFinetuning.freeze(net)
    assert trainable(net) == ["1.weight", "1.bias", "2.1.a.weight", "2.1.a.bias"]
    assert not is_frozen_norm(net[1])
    BaseFinetuning.freeze(net, train_bn=False)
    assert trainable(net) == []
    BaseFinetuning.make_trainable(net)
    assert len(trainable(net)) == len(list(net.parameters()))


def test_freeze_module_is_for_one_module() -> None:
    gain = Gain()
    BaseFinetuning.freeze_module(gain)
    assert trainable(gain) == ["layer.weight", "layer.bias"]


def test_frozen_batch_norm_stays_frozen_through_train() -> None:
    net = network().train()
    norm: Any = net[1]
    BaseFinetuning.freeze(norm, train_bn=False)
    before = copy.deepcopy(norm.state_dict())
    rows = torch.randn(8, 2) * 5 + 3
    assert net.train() is net
    out = norm(rows)
    assert (norm.training, norm.track_running_stats) == (False, False)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert torch.allclose(out, rows / (1 + norm.eps) ** 0.5)  # by the running statistics, not the batch's

    BaseFinetuning.make_trainable(norm)
    assert (norm.training, norm.track_running_stats) == (True, True)
    norm(rows)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("mode", [True, False])
def test_released_batch_norm_takes_the_last_mode(mode: bool) -> None:
    net = network().train(not mode)
    BaseFinetuning.freeze(net, train_bn=False)
    net.train(mode)
    assert not net[1].training
    BaseFinetuning.make_trainable(net)
    assert net[1].training is mode


def test_batch_norm_without_statistics() -> None:
    norm = nn.BatchNorm1d(2, track_running_stats=False)
    BaseFinetuning.freeze(norm, train_bn=False)
    BaseFinetuning.make_trainable(norm)
    assert norm.track_running_stats is False
    assert norm(torch.randn(4, 2)).shape == (4, 2)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_frozen_modules_are_copied_with_their_own_norm(way: str) -> None:
    net = network().train()
    BaseFinetuning.freeze(net, train_bn=False)
    if way == "deepcopy":
        twin = copy.deepcopy(net)
    else:
        buffer = io.BytesIO()
        torch.save(net, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    assert is_frozen_norm(twin[1])
    BaseFinetuning.make_trainable(twin)
    assert twin[1].training
    assert is_frozen_norm(net[1])
    assert not net[1].training


def test_filter_params() -> None:
    net = network()
    BaseFinetuning.freeze(net)
    norms = [id(p) for m in (net[1], net[2][1]["a"]) for p in m.parameters()]  # type: ignore[index]
    assert [id(p) for p in BaseFinetuning.filter_params(net)] == norms
    assert list(BaseFinetuning.filter_params(net, train_bn=False)) == []
    frozen = [id(p) for p in BaseFinetuning.filter_params(net, requires_grad=False)]
    assert frozen == [id(p) for m in (net[0], net[2][0]) for p in m.parameters()]  # type: ignore[index]


def test_quantised_weights_have_no_gradient_to_switch() -> None:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False))
    BaseFinetuning.make_trainable(module)
    assert trainable(module) == []
