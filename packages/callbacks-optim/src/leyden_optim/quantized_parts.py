"""The parts of a module that quantisation-aware training has made: stubs, fake quantisers and int8 layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.ao.quantization.fake_quantize import FakeQuantizeBase

__all__ = [
    "fake_quantise_in_float32",
    "fake_quants",
    "has_begun",
    "has_range",
    "has_stubs",
    "holds_int8",
    "is_int8",
    "make_stubs",
    "named_fake_quants",
    "switch_observers",
    "uncalibrated",
    "values_of_graphs",
]


def make_stubs() -> tuple[nn.Module, nn.Module]:
    """Return what quantises an input and what dequantises an output, once prepared."""
    from torch.ao.quantization import DeQuantStub, QuantStub

    return QuantStub(), DeQuantStub()


def has_stubs(module: nn.Module) -> bool:
    """Whether `module` says itself where quantised arithmetic begins."""
    from torch.ao.quantization import QuantStub

    return any(isinstance(part, QuantStub) for part in module.modules())


def fake_quants(module: nn.Module) -> list[FakeQuantizeBase]:
    """Return the parts of `module` that fake-quantise; none in one that is not prepared."""
    return [part for _, part in named_fake_quants(module)]


def named_fake_quants(module: nn.Module) -> Iterator[tuple[str, FakeQuantizeBase]]:
    """Yield the parts of `module` that fake-quantise, with their names."""
    from torch.ao.quantization.fake_quantize import FakeQuantizeBase

    for name, part in module.named_modules():
        if isinstance(part, FakeQuantizeBase):
            yield name, part


def fake_quantise_in_float32(module: nn.Module) -> None:
    """Cast what comes to be fake-quantised: autocast gives 16 bit numbers, which torch's kernels do not take."""
    for part in fake_quants(module):
        if _in_float32 not in part._forward_pre_hooks.values():
            part.register_forward_pre_hook(_in_float32)


def _in_float32(part: nn.Module, args: tuple[Tensor]) -> Tensor:
    return args[0].float()


def switch_observers(module: nn.Module, *, activations: bool, weights: bool, begins: bool = False) -> None:
    """Let the observers of activations, and those of weights, collect or not; let fake quantisation begin, for good."""
    for name, part in named_fake_quants(module):
        part.enable_observer(weights if name.endswith("weight_fake_quant") else activations)
        if begins:
            part.enable_fake_quant()


def has_begun(module: nn.Module) -> bool:
    """Whether anything in `module` is fake-quantised by now. Waits for the device."""
    return any(int(part.fake_quant_enabled[0]) for part in fake_quants(module))


def uncalibrated(module: nn.Module) -> list[str]:
    """Return the names of layers, and of the stub ``quant``, whose values no observer has seen.

    Waits for the device: the observers' ranges are looked at.
    """
    names = [name.rpartition(".")[0] for name, part in named_fake_quants(module) if not has_range(part)]
    return list(dict.fromkeys(names))


def has_range(part: FakeQuantizeBase) -> bool:
    """Whether the observer of `part` has seen anything, or there is none."""
    least = getattr(getattr(part, "activation_post_process", None), "min_val", None)
    return least is None or (least.numel() > 0 and not bool(torch.isinf(least).any()))  # None: it needs none


def is_int8(module: nn.Module) -> bool:
    """Whether `module` has layers of quantised arithmetic, which train no more."""
    from torch.ao.nn.quantized import DeQuantize, QFunctional, Quantize
    from torch.ao.nn.quantized.modules.utils import WeightedQuantizedModule

    kinds = (Quantize, DeQuantize, QFunctional, WeightedQuantizedModule)
    return any(isinstance(part, kinds) for part in module.modules())


def holds_int8(weights: Mapping[str, Any]) -> bool:
    """Whether there is a quantised tensor among `weights`, alone or, as torch packs that of a layer, in a tuple."""
    values = (one for value in weights.values() for one in (value if isinstance(value, tuple) else (value,)))
    return any(isinstance(one, Tensor) and one.is_quantized for one in values)


def values_of_graphs(module: nn.Module) -> dict[int, Tensor]:
    """Return, as a memo of ``copy.deepcopy``, copies of tensors that have a graph, which it refuses to copy.

    A weight that is pruned is one after each call, and so is a loss that a module keeps.
    """
    tensors = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
    return {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}
