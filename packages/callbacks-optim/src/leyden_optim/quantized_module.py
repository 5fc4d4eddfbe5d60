"""A module as quantisation-aware training makes it: fake-quantised between float inputs and outputs, then int8."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from leyden.data.transfer import map_tensors
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.rank_zero import rank_zero_warn
from leyden_optim import quantized_parts as parts
from leyden_optim import torch_quantization as quantization
from leyden_optim.float_layers import check_layers

if TYPE_CHECKING:
    from torch.ao.quantization import QConfig

__all__ = ["QuantizedForward", "Trainable", "check_ranges", "fake_quantise", "forward_not_called", "with_children"]

M = TypeVar("M", bound=nn.Module)


def fake_quantise(module: nn.Module, qconfig: QConfig, to_fuse: Sequence[Sequence[str]]) -> None:
    """Prepare `module` in place, with a layer that quantises before its forward and one that dequantises behind it.

    One that has stubs of its own says itself where quantised arithmetic begins, and gets none.
    """
    kind = type(module).__name__
    _check_names(module, to_fuse)
    check_layers(module, qconfig, {name for names in to_fuse for name in names})
    brings_stubs = parts.has_stubs(module)
    if not brings_stubs:
        if type(module).forward is nn.Module.forward:
            raise MisconfigurationException(
                f"{kind} has no forward, around which inputs are quantised and outputs made floats again. Define "
                f"forward and call self(x) in its steps, or {_OWN_STUBS}."
            )
        taken = [name for name in ("quant", "dequant") if hasattr(module, name)]
        if taken:
            raise MisconfigurationException(
                f"{kind} has an attribute {taken[0]!r} of its own, where the layer that quantises inputs, or makes "
                "outputs floats again, has its place; rename it."
            )
        module.quant, module.dequant = parts.make_stubs()
        module.forward = QuantizedForward(module)
    try:
        quantization.prepare(module, qconfig, to_fuse)
    except (AssertionError, NotImplementedError) as error:
        if not brings_stubs:
            del module.quant, module.dequant, module.forward
        raise MisconfigurationException(
            f"{kind} cannot be prepared for quantisation: {str(error).strip(' .')}. torch fuses Conv or Linear with a "
            f"BatchNorm, a ReLU or both behind it; modules_to_fuse={[list(names) for names in to_fuse]!r}."
        ) from error


def _check_names(module: nn.Module, to_fuse: Sequence[Sequence[str]]) -> None:
    names = [name for name, _ in module.named_modules(remove_duplicate=False)]
    wanted = [name for group in to_fuse for name in group]
    for name in wanted:
        if wanted.count(name) > 1:
            raise MisconfigurationException(f"modules_to_fuse: {name!r} stands there twice; a layer is fused once.")
        if name not in names:
            raise MisconfigurationException(
                f"modules_to_fuse: {type(module).__name__} has no layer {name!r}.{did_you_mean(name, names)}"
            )


def check_ranges(module: nn.Module, owner: str, when: str) -> None:
    """Refuse to make a module int8 whose values nobody has seen; `when` says when they are looked at.

    Raises:
        MisconfigurationException: the module is not fake-quantised, or no batch, or none of its inputs, was seen.
    """
    kind = type(module).__name__
    if not parts.fake_quants(module):
        raise MisconfigurationException(
            f"{kind} is not fake-quantised, so it cannot become int8. Train it with {owner} first, or give it to "
            "prepare() and load the weights of a checkpoint."
        )
    if not parts.has_begun(module):
        raise MisconfigurationException(
            f"{kind} cannot become int8: its observers have seen no batch, so that no range of values is known. {when}"
        )
    unseen = parts.uncalibrated(module)
    if "quant" in unseen:
        raise forward_not_called(module)
    if unseen:
        rank_zero_warn(
            f"{kind}: no observer has seen the values of {', '.join(unseen)}, so these are made int8 with a range "
            "that fits nothing. Are they used in training?"
        )


def with_children(module: M, children: Mapping[str, nn.Module | None], *, wrapped: bool) -> M:
    """Return a copy of `module` with int8 `children`; with `wrapped` it takes and gives floats."""
    # What stands in `memo` is taken for the copy: the float children are not copied to be thrown away.
    memo = {id(module._modules): dict(children), **parts.values_of_graphs(module)}
    twin = copy.deepcopy(module, memo)
    twin.cpu().eval()
    if not wrapped:
        twin.__dict__.pop("forward", None)
    return twin


class Trainable:
    """What a module was made of before it became int8."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._children = dict(module._modules)
        self._training = module.training
        self._forward = module.__dict__.get("forward")

    def put_back(self) -> None:
        """Make the module that again."""
        module = self.module
        module._modules.clear()
        module._modules.update(self._children)
        module.training = self._training
        if self._forward is not None:
            module.forward = self._forward

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the module would have."""
        int8, self.module._modules = self.module._modules, self._children
        try:
            return self.module.state_dict()
        finally:
            self.module._modules = int8


class QuantizedForward:
    """``module.forward`` between the module's ``quant`` and ``dequant``, which a copy or pickle of the module has too.

    Attributes:
        called: whether anything went through it: the range of inputs can be known then.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.called = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.called = True
        module = self.module
        args = tuple(map_tensors(value, self._quantized) for value in args)
        kwargs = {name: map_tensors(value, self._quantized) for name, value in kwargs.items()}
        try:
            returned = type(module).forward(module, *args, **kwargs)
        except NotImplementedError as error:
            if "Quantized" in str(error) or "QUInt8" in str(error):
                error.add_note(_NO_KERNEL)
            raise
        return map_tensors(returned, self._dequantized)

    def _quantized(self, value: Tensor) -> Tensor:
        if not value.is_floating_point():  # indices and masks, and what is quantised already
            return value
        quantized: Tensor = self.module.quant(value)  # type: ignore[operator]  # a layer
        return quantized

    def _dequantized(self, value: Tensor) -> Tensor:
        if not value.is_quantized:  # in training nothing is
            return value
        dequantized: Tensor = self.module.dequant(value)  # type: ignore[operator]  # a layer
        return dequantized


_NO_KERNEL = (
    "The int8 model came to an operation that torch has for floats only. Fuse a BatchNorm into the layer before it "
    "(modules_to_fuse), write additions with torch.ao.nn.quantized.FloatFunctional, or keep a layer in floats: "
    "`self.layer.qconfig = None` before fit, with DeQuantStub before it and QuantStub behind it."
)

_OWN_STUBS = "put torch.ao.quantization.QuantStub and DeQuantStub where quantised arithmetic begins and ends"


def forward_not_called(module: nn.Module) -> MisconfigurationException:
    """Return the error of a module whose steps go past its forward."""
    return MisconfigurationException(
        f"{type(module).__name__}.forward was not called in training, so that the range of its inputs is not known and "
        f"they cannot be quantised. Call self(x) in training_step, not parts of the module; or {_OWN_STUBS}."
    )
