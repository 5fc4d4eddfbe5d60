"""A weight that is pruned, with every layer that holds it: masking it, resetting it, and making that permanent."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

__all__ = ["Target", "make_permanent", "pruning_hooks", "resampled", "trained_parameter"]


def trained_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """Return the parameter that ``module.name`` is, or is computed from where it is pruned; None where it is neither.

    Example:
        >>> layer = prune.random_unstructured(nn.Linear(2, 2), "weight", amount=1)
        >>> trained_parameter(layer, "weight") is layer.weight_orig
        True
    """
    masked = module._parameters.get(f"{name}_orig") if f"{name}_mask" in module._buffers else None
    return module._parameters.get(name) if masked is None else masked


def pruning_hooks(module: nn.Module) -> list[tuple[int, Any]]:
    """Return the hooks by which torch masks weights of this layer before each call, each with its key."""
    hooks = module._forward_pre_hooks.items()
    return [(key, hook) for key, hook in hooks if isinstance(hook, prune.BasePruningMethod)]


@dataclass
class Target:
    """One parameter. Layers that share it get one mask, so that it is the same weight in each of them.

    While it is pruned the layer has, as torch does it, ``weight_orig``, the very parameter that the optimizer holds,
    and ``weight_mask``; ``weight`` is their product, computed when the layer is called. However often it is pruned
    there is one hook, which holds no tensor.

    Attributes:
        names: what it is called in the model, several where it is shared; it goes by the first.
        holders: layers that hold it, each with the name it has there.
        callers: modules that use it without calling the layer, as `nn.MultiheadAttention` does with its last one.
    """

    names: list[str]
    holders: list[tuple[nn.Module, str]]
    callers: list[tuple[nn.Module, nn.Module, str]] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The first of its names."""
        return self.names[0]

    @property
    def layer(self) -> nn.Module:
        """The first of its holders."""
        return self.holders[0][0]

    @property
    def parameter(self) -> nn.Parameter:
        """What is trained."""
        parameter = trained_parameter(*self.holders[0])
        assert parameter is not None
        return parameter

    @property
    def mask(self) -> Tensor | None:
        """1 where the weight is left, 0 where it is pruned; None where there is no mask now."""
        module, name = self.holders[0]
        return module._buffers.get(f"{name}_mask")

    @property
    def whole_mask(self) -> Tensor:
        """The mask, of ones where there is none."""
        return torch.ones_like(self.parameter) if self.mask is None else self.mask

    @property
    def weight(self) -> Tensor:
        """The weight as the layer uses it, without gradient. The layer's own is of its last call."""
        parameter = self.parameter.detach()
        return parameter if self.mask is None else self.mask.to(parameter.dtype) * parameter

    def apply(self, mask: Tensor) -> None:
        """Mask the weight from now on."""
        if self.mask is None:
            for module, name in self.holders:
                _mask_in_place(module, name)
            for caller, module, name in self.callers:
                caller.register_forward_pre_hook(partial(_refresh, module, name))
        for module, name in self.holders:
            module.register_buffer(f"{name}_mask", mask)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the layer's weight, without a graph until the layer is called, so that the module can be copied."""
        if self.mask is not None:
            for module, name in self.holders:
                setattr(module, name, self.weight)

    @torch.no_grad()
    def set(self, values: Tensor) -> None:
        """Give the parameter these values; masked ones stay masked."""
        self.parameter.copy_(values)
        self.refresh()

    def remove(self) -> None:
        """Make the pruning permanent: ``weight`` is a parameter again, the same, with zeros in it."""
        for caller, module, name in self.callers:
            for key, hook in list(caller._forward_pre_hooks.items()):
                if isinstance(hook, partial) and hook.func is _refresh and hook.args == (module, name):
                    del caller._forward_pre_hooks[key]
        for module, name in self.holders:
            _remove(module, name)


def make_permanent(module: nn.Module) -> None:
    """Remove every pruning of torch's from the module, whoever applied it; what is pruned stays 0."""
    for one in module.modules():
        for _, hook in pruning_hooks(one):
            _remove(one, hook._tensor_name)
        for key, hook in list(one._forward_pre_hooks.items()):
            if isinstance(hook, partial) and hook.func is _refresh:
                del one._forward_pre_hooks[key]


def resampled(module: nn.Module) -> nn.Module | None:
    """Return a copy of a layer, not pruned, with the weights that its ``reset_parameters`` draws; None without one."""
    if not callable(getattr(module, "reset_parameters", None)):
        return None
    twin: Any = _twin(module)
    twin.reset_parameters()
    return twin  # type: ignore[no-any-return]


def _twin(module: nn.Module) -> nn.Module:
    """Copy a module that ``copy.deepcopy`` may refuse, since a weight that was called has a graph."""
    twin = copy.copy(module)
    names = {name.removesuffix("_orig"): name for name in module._parameters if _is_masked(module, name)}
    twin.__dict__ = {name: value for name, value in vars(module).items() if name not in names}
    twin._parameters = {
        name.removesuffix("_orig") if _is_masked(module, name) else name: _copied(parameter)
        for name, parameter in module._parameters.items()
    }
    twin._buffers = {
        name: None if buffer is None else buffer.clone()
        for name, buffer in module._buffers.items()
        if name.removesuffix("_mask") not in names
    }
    twin._modules = {name: None if one is None else _twin(one) for name, one in module._modules.items()}
    return twin


def _copied(parameter: nn.Parameter | None) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


def _is_masked(module: nn.Module, name: str) -> bool:
    return name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in module._buffers


def _mask_in_place(module: nn.Module, name: str) -> None:
    order = list(module._parameters)
    prune.identity(module, name)  # type: ignore[no-untyped-call]
    _reorder(module, [f"{name}_orig" if one == name else one for one in order])


def _remove(module: nn.Module, name: str) -> None:
    order = list(module._parameters)
    parameter = module._parameters[f"{name}_orig"]
    assert parameter is not None
    # Not torch's `remove`: it gives the parameter another storage, also in the layers that share it.
    with torch.no_grad():
        parameter.mul_(module._buffers[f"{name}_mask"].to(parameter.dtype))  # type: ignore[union-attr]
    for key, hook in pruning_hooks(module):
        if hook._tensor_name == name:
            del module._forward_pre_hooks[key]
    delattr(module, name)
    del module._parameters[f"{name}_orig"], module._buffers[f"{name}_mask"]
    setattr(module, name, parameter)
    _reorder(module, [name if one == f"{name}_orig" else one for one in order])


def _reorder(module: nn.Module, order: list[str]) -> None:
    """Let the parameters stand where they stood: an optimizer's state goes by their order."""
    found = dict(module._parameters)
    module._parameters.clear()
    module._parameters.update({name: found[name] for name in order})


def _refresh(module: nn.Module, name: str, *_: Any) -> None:
    for _key, hook in pruning_hooks(module):
        if hook._tensor_name == name:
            hook(module, None)
