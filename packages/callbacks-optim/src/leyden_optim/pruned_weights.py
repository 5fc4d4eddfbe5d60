"""Weights by name, of a module that is pruned and of one that is not: each as the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from leyden_optim.pruning_target import pruning_hooks

__all__ = ["as_before", "fit_weights", "plain_weights"]


def plain_weights(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Return `weights` with ``weight``, zeros in it, for ``weight_orig`` and ``weight_mask`` of each of `names`.

    Example:
        >>> import torch
        >>> weights = {"a.weight_orig": torch.ones(2), "a.bias": torch.ones(1), "a.weight_mask": torch.eye(2)[0]}
        >>> dict(plain_weights(weights, ["a.weight"]))
        {'a.weight': tensor([1., 0.]), 'a.bias': tensor([1.])}
    """
    pruned = _pruned_names(weights) & set(names)
    return _replaced(weights, {name: _product(weights, name) for name in pruned})


def as_before(weights: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` of a module that is pruned, with those of `before`, when some of it was not yet."""
    return _replaced(weights, {name: before[name] for name in _pruned_names(weights) if name in before})


def fit_weights(module: nn.Module, weights: dict[str, Any], *_: Any) -> None:
    """Change `weights` in place to the names that the module has now, pruned or not; a hook of ``load_state_dict``."""
    here = {
        f"{prefix}.{hook._tensor_name}" if prefix else hook._tensor_name
        for prefix, layer in module.named_modules(remove_duplicate=False)
        for _, hook in pruning_hooks(layer)
    }
    for name in _pruned_names(weights) - here:
        weights.setdefault(name, _product(weights, name))
        del weights[f"{name}_orig"], weights[f"{name}_mask"]
    for name in here:
        if name in weights:
            value = weights.pop(name)
            weights.update({f"{name}_orig": value, f"{name}_mask": value.new_ones(value.shape)})


def _replaced(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` in their order, each of `values` for what is masked by that name."""
    replaced: dict[str, Tensor] = OrderedDict()
    for name, value in weights.items():
        bare = name.removesuffix("_orig")
        if name.endswith("_orig") and bare in values:
            replaced[bare] = values[bare]
        elif name.removesuffix("_mask") not in values:
            replaced[name] = value
    if hasattr(weights, "_metadata"):
        replaced._metadata = weights._metadata  # type: ignore[attr-defined]
    return replaced


def _product(weights: Mapping[str, Tensor], name: str) -> Tensor:
    original = weights[f"{name}_orig"].detach()
    return weights[f"{name}_mask"].to(original.dtype) * original


def _pruned_names(weights: Mapping[str, Any]) -> set[str]:
    names = (name.removesuffix("_orig") for name in weights if name.endswith("_orig"))
    return {name for name in names if f"{name}_mask" in weights}
