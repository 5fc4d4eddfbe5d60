"""The forward between float inputs and outputs, and int8 copies of modules."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from leyden_optim import quantized_parts as parts
from leyden_optim import torch_quantization as quantization
from leyden_optim.quantized_module import QuantizedForward, Trainable, fake_quantise, with_children


class Out(NamedTuple):
    scores: Tensor
    rows: Tensor


class Net(nn.Module):
    """Takes nested floats and integers, gives a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.loss: Tensor | None = None

    def forward(self, inputs: dict[str, Tensor], *, rows: Tensor) -> Out:
        assert rows.dtype is torch.int64
        return Out(self.fc(inputs["x"]), rows)


INPUTS = {"x": torch.linspace(-1, 1, 8).view(2, 4)}
ROWS = torch.tensor([1, 0])


def prepared(module: Any) -> Any:
    fake_quantise(module, quantization.made_qconfig("fbgemm", "average"), ())
    parts.switch_observers(module, activations=True, weights=True, begins=True)
    return module


def int8_of(module: nn.Module, **arguments: Any) -> Any:
    return with_children(module, quantization.int8_children(module, "fbgemm"), wrapped=arguments.get("wrapped", True))


def test_floats_are_quantised_wherever_they_are_and_all_else_is_left_alone() -> None:
    torch.manual_seed(0)
    module = Net()
    expected = module(INPUTS, rows=ROWS).scores
    prepared(module)
    out = module(INPUTS, rows=ROWS)
    int8 = int8_of(module)(INPUTS, rows=ROWS)
    assert type(out) is type(int8) is Out
    assert int8.rows is ROWS
    assert int8.scores.dtype is torch.float32
    assert torch.allclose(out.scores, expected, atol=0.05)
    assert torch.allclose(int8.scores, out.scores, atol=0.02)


def test_copies_and_pickles_have_a_forward_of_their_own() -> None:
    module = prepared(Net())
    module(INPUTS, rows=ROWS)
    int8 = int8_of(module)
    for twin in (copy.deepcopy(module), copy.deepcopy(int8), int8):
        assert isinstance(twin.forward, QuantizedForward)
        assert twin.forward.module is twin
    forward = pickle.loads(pickle.dumps(QuantizedForward(nn.Identity())))
    assert isinstance(forward.module, nn.Identity)


def test_a_module_that_keeps_a_loss_is_copied() -> None:
    module = prepared(Net())
    module.loss = module(INPUTS, rows=ROWS).scores.sum()
    twin = int8_of(module)
    assert torch.equal(twin.loss, module.loss)
    assert not twin.loss.requires_grad
    assert module.loss.requires_grad
    module.loss.backward()


def test_float_children_are_not_copied_to_be_thrown_away() -> None:
    module = prepared(Net())
    module(INPUTS, rows=ROWS)
    children = quantization.int8_children(module, "fbgemm")
    twin = with_children(module, children, wrapped=False)
    assert all(twin._modules[name] is child for name, child in children.items())
    assert "forward" not in vars(twin)
    assert "forward" in vars(module)


def test_what_a_module_was_made_of_is_put_back() -> None:
    module = prepared(Net())
    before, state = module(INPUTS, rows=ROWS).scores, module.state_dict()
    layer, kept = module.fc, Trainable(module)
    module._modules.clear()
    module.eval()
    del module.forward
    assert list(kept.state_dict()) == list(state)
    assert list(module._modules) == []
    kept.put_back()
    assert module.fc is layer
    assert module.training
    assert torch.equal(module(INPUTS, rows=ROWS).scores, before)


class Adds(Net):
    """Adds what torch adds in floats only."""

    def forward(self, inputs: dict[str, Tensor], *, rows: Tensor) -> Out:
        return Out(self.fc(inputs["x"]) + self.fc(inputs["x"]), rows)


def test_an_operation_without_a_kernel_is_told_of_with_what_to_do() -> None:
    module = prepared(Adds())
    module(INPUTS, rows=ROWS)
    with pytest.raises(NotImplementedError) as caught:
        int8_of(module)(INPUTS, rows=ROWS)
    assert "FloatFunctional" in caught.value.__notes__[0]
