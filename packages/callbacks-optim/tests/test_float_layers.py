"""Layers that torch has in floats only."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden.errors import MisconfigurationException
from leyden_optim import QuantizationAwareTraining
from leyden_optim import quantized_parts as parts
from leyden_optim.float_layers import WITHOUT_KERNEL


class Net(nn.Module):
    """A layer between two that are int8."""

    def __init__(self, layer: nn.Module, features: int = 4) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Linear(4, 4), layer, nn.Linear(features, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.last(self.layer(self.first(inputs)))
        return scores


REFUSED = {
    "GRU": nn.GRU(4, 4),
    "RNN": nn.RNN(4, 4),
    "LSTM": nn.LSTM(4, 4, proj_size=2),
    "LSTMCell": nn.LSTMCell(4, 4),
    "GRUCell": nn.GRUCell(4, 4),
    "MultiheadAttention": nn.MultiheadAttention(4, 2),
    "Bilinear": nn.Bilinear(4, 4, 4),
    "Embedding": nn.Embedding(3, 4),
    "EmbeddingBag": nn.EmbeddingBag(3, 4),
    "PReLU": nn.PReLU(),
    "ConvTranspose2d": nn.ConvTranspose2d(4, 4, 3),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_layer_of_which_there_is_none_in_int8_is_refused_before_training(kind: str) -> None:
    module = Net(nn.Sequential(REFUSED[kind]))
    with pytest.raises(MisconfigurationException, match=rf"Net has layers .*qconfig = None[^$]*- layer.0 \({kind}\)"):
        QuantizationAwareTraining().prepare(module)
    assert [name for name, _ in module.named_children()] == ["first", "layer", "last"]
    assert type(module.first) is nn.Linear


def test_one_range_for_all_channels_is_what_transposed_convolutions_take() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(1, 2, 3)

        def forward(self, images: Tensor) -> Tensor:
            larger: Tensor = self.up(images)
            return larger

    assert quantised(Decoder(), torch.rand(2, 1, 3, 3), "qnnpack").shape == (2, 2, 5, 5)
    with pytest.raises(MisconfigurationException, match=r"up \(ConvTranspose2d\).*those of 'qnnpack' are such"):
        QuantizationAwareTraining("x86").prepare(Decoder())


def quantised(module: nn.Module, inputs: Tensor, engine: str = "fbgemm") -> Tensor:
    """Return what the int8 module makes of inputs that it was calibrated with."""
    quantize = QuantizationAwareTraining(engine)
    quantize.prepare(module)
    parts.switch_observers(module, activations=True, weights=True, begins=True)
    module(inputs)
    scores: Tensor = quantize.convert(module)(inputs)
    return scores


def activations() -> list[type[Any]]:
    names = [*nn.modules.activation.__all__, "LayerNorm", "RMSNorm", "GroupNorm", "LocalResponseNorm", "BatchNorm1d"]
    classes = [getattr(nn, name) for name in names]
    return [cls for cls in classes if cls not in (nn.MultiheadAttention, nn.PReLU)]


def layer_of(kind: type[Any]) -> nn.Module:
    arguments: dict[str, tuple[Any, ...]] = {
        **{"Threshold": (0.1, 1.0), "LayerNorm": (4,), "RMSNorm": (4,), "GroupNorm": (2, 4), "BatchNorm1d": (4,)},
        **{"LocalResponseNorm": (2,), "Softmax": (-1,), "LogSoftmax": (-1,), "Softmin": (-1,)},
    }
    layer: nn.Module = kind(*arguments.get(kind.__name__, ()))
    return layer


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # before RMSNorm fails
@pytest.mark.parametrize("kind", activations(), ids=lambda kind: kind.__name__)
def test_those_are_told_of_that_the_int8_module_fails_at(kind: type[Any]) -> None:
    module = Net(layer_of(kind), features=2 if kind is nn.GLU else 4)
    inputs = torch.linspace(-1, 1, 12).view(3, 4)
    if kind in (nn.Softmax2d, nn.LocalResponseNorm):
        inputs = inputs.view(1, 3, 1, 4)
    elif kind is nn.GroupNorm:
        inputs = inputs[:, :, None].expand(3, 4, 4)
    if kind not in WITHOUT_KERNEL:
        quantised(module, inputs)
        return
    told = rf"^Net: torch has no int8 arithmetic for layer \({kind.__name__}\)\. If forward calls"
    with pytest.warns(UserWarning, match=told), pytest.raises(NotImplementedError, match=r"Quantized|QUInt8") as caught:
        quantised(module, inputs)
    assert "keep a layer in floats" in caught.value.__notes__[0]


def test_what_is_fused_or_left_in_floats_is_not_told_of() -> None:
    class Fused(Net):
        def __init__(self) -> None:
            super().__init__(nn.BatchNorm1d(4))
            self.softmax = nn.Softmax(-1)  # of the predictions
            self.softmax.qconfig = None  # type: ignore[assignment]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = Fused()
        QuantizationAwareTraining(modules_to_fuse=[["first", "layer"]]).prepare(module)
    assert isinstance(module.layer, nn.Identity)  # it is in the layer before it
    assert type(module.softmax) is nn.Softmax


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [(nn.Embedding(3, 4), torch.tensor([0, 2, 1])), (nn.GRU(4, 4), torch.rand(3, 2, 4)), (nn.SiLU(), torch.rand(3, 4))],
    ids=["Embedding", "GRU", "SiLU"],
)
def test_a_layer_is_kept_in_floats_with_a_stub_behind_it(layer: nn.Module, inputs: Tensor) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.fc = layer, nn.Linear(4, 1)
            self.layer.qconfig = None  # type: ignore[assignment]  # how torch leaves a layer out
            self.quant, self.dequant = parts.make_stubs()

        def forward(self, inputs: Tensor) -> Tensor:
            values = self.layer(inputs)
            values = values[0] if isinstance(values, tuple) else values
            scores: Tensor = self.dequant(self.fc(self.quant(values)))
            return scores

    torch.manual_seed(0)
    module = Words()
    expected = module.fc(values[0] if isinstance(values := layer(inputs), tuple) else values)
    assert torch.allclose(quantised(module, inputs), expected, atol=0.15)
    assert type(module.layer) is type(layer)
