"""The second copy of a module's weights: which tensors are in it, exchanged, found again, followed when replaced."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from leyden import MisconfigurationException
from leyden_optim.averaged_weights import AveragedWeights


class Odd(nn.Module):
    """A shared layer, a shared buffer, one that no checkpoint has, a list of parameters, and what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.again = self.layer
        self.nothing = None
        self.norm = nn.BatchNorm1d(2)
        self.several = nn.ParameterList([torch.ones(1), torch.zeros(2, 2)])
        self.double_one = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)
        self.register_buffer("one", torch.zeros(2))
        self.register_buffer("other", self.one)
        self.register_buffer("passing", torch.ones(1), persistent=False)
        self.generator = (number for number in range(3))
        self.one: Tensor

    def get_extra_state(self) -> Any:
        return {"kept": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"kept": 3}


class Plain(Odd):
    """The same that torch's AveragedModel can copy."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = iter(())  # type: ignore[assignment]


def change(module: nn.Module, by: float) -> None:
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.add_(torch.tensor(by).to(tensor.dtype))


def ema(decay: float = 0.7) -> Any:
    return swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("averaging", ["ema", "mean"])
def test_it_is_the_average_of_torch(use_buffers: bool, averaging: str) -> None:
    torch.manual_seed(0)
    module = Plain()
    by = {"multi_avg_fn": ema()} if averaging == "ema" else {}
    expected = AveragedModel(module, use_buffers=use_buffers, **by)
    weights = AveragedWeights(module, use_buffers=use_buffers, **by)
    for step in range(4):
        change(module, step + 0.5)
        expected.update_parameters(module)
        weights.update()
    trained, averaged = weights.copies()
    assert list(averaged) == list(trained) == list(module.state_dict())
    for name, value in expected.module.state_dict().items():
        assert torch.equal(averaged[name], value) if isinstance(value, Tensor) else averaged[name] == value
    assert weights.updates == int(expected.n_averaged) == 4


def blend(averaged: Tensor, current: Tensor, n_averaged: Tensor | int) -> Tensor:
    return averaged * 0.9 + current * 0.1


@pytest.mark.parametrize("averaging", [{}, {"avg_fn": blend}, {"multi_avg_fn": ema(0.9)}])
def test_indices_and_masks_are_those_of_the_module(averaging: dict[str, Any]) -> None:
    """Torch's mean of masks is an error, and its average cuts the fraction off: by 0.9 the index 5 would become 4."""
    module: Any = nn.Linear(1, 1)
    indices, mask = torch.arange(1000), torch.tensor([True, False])
    module.register_buffer("indices", indices.clone())
    module.register_buffer("mask", mask.clone())
    module.register_parameter("bits", nn.Parameter(torch.zeros(2, dtype=torch.uint8), requires_grad=False))
    weights = AveragedWeights(module, use_buffers=True, **averaging)
    for step in range(4):
        with torch.no_grad():
            module.bits += step
        weights.update()
    averaged = weights.copies()[1]
    assert torch.equal(averaged["indices"], indices)
    assert torch.equal(averaged["mask"], mask)
    assert averaged["bits"].tolist() == [6, 6]


@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_expanded_buffer_is_a_constant(use_buffers: bool) -> None:
    module: Any = nn.Linear(1, 1)
    module.register_buffer("positions", torch.arange(3.0).expand(2, 3), persistent=False)
    weights = AveragedWeights(module, use_buffers=use_buffers, multi_avg_fn=ema())
    for _ in range(2):
        weights.update()
        weights.exchange()
    assert module.positions.tolist() == [[0.0, 1.0, 2.0]] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none here")
@pytest.mark.parametrize("use_buffers", [True, False])
def test_the_mean_on_a_cuda_device(use_buffers: bool) -> None:
    """Torch's own fails there on the counts of BatchNorm."""
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).cuda()
    weights, expected = AveragedWeights(module, use_buffers=use_buffers), AveragedModel(module)
    for step in range(4):
        change(module, step + 0.5)
        weights.update()
        expected.update_parameters(module)
    averaged = weights.copies()[1]
    for name, value in expected.module.named_parameters():
        assert torch.equal(averaged[name], value), name


def test_an_exchange_and_back() -> None:
    module = Odd()
    weights = AveragedWeights(module)
    weights.update()
    change(module, 1.0)
    before = {name: tensor.clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    same = list(module.parameters())
    trained, averaged = ({k: v.clone() for k, v in one.items() if k != "_extra_state"} for one in weights.copies())
    with torch.inference_mode():  # as in a validation
        weights.exchange()
    assert weights.exchanged
    assert all(one is other for one, other in zip(module.parameters(), same, strict=True))
    assert module.again is module.layer
    assert module.other is module.one
    assert torch.equal(module.one, torch.zeros(2))
    for one, other in zip(weights.copies(), (trained, averaged), strict=True):  # which is which, wherever they are
        assert all(torch.equal(one[name], other[name]) for name in other)
    weights.exchange()
    now = dict((*module.named_parameters(), *module.named_buffers()))
    assert all(torch.equal(now[name], before[name]) for name in before)
    assert all(not tensor.is_inference() for tensor in now.values())


class Interrupted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Presses Ctrl-C at the third copy of a tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.copies += func is torch.ops.aten.copy_.default
        if self.copies == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return func(*args, **(kwargs or {}))


def test_an_exchange_is_whole_or_not_at_all() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weights = AveragedWeights(module)
    weights.update()
    change(module, 1.0)
    trained, averaged = ({name: value.clone() for name, value in one.items()} for one in weights.copies())
    with pytest.raises(KeyboardInterrupt), Interrupted():
        weights.exchange()
    assert weights.exchanged
    for one, other in zip(weights.copies(), (trained, averaged), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_tensors_that_are_replaced_are_followed_and_others_refused() -> None:
    module = Odd()
    weights = AveragedWeights(module, multi_avg_fn=ema())
    weights.update()
    first = module.layer.weight.detach().clone()
    module.layer.weight = nn.Parameter(torch.full((2, 2), 5.0))  # in its place
    weights.update()
    assert torch.equal(weights.copies()[1]["layer.weight"], torch.lerp(first, torch.full((2, 2), 5.0), 1 - 0.7))
    module.norm = nn.BatchNorm1d(2)  # a part of the same shape, from when places are looked up again
    weights.settle()
    module.norm.weight.data.fill_(3.0)
    weights.update()
    assert torch.equal(weights.copies()[1]["norm.weight"], torch.lerp(torch.ones(2), torch.full((2,), 3.0), 1 - 0.7))
    module.norm = nn.BatchNorm1d(3)
    with pytest.raises(MisconfigurationException, match=r"Odd cannot be averaged any more: norm\.bias, norm\.running_"):
        weights.settle()
