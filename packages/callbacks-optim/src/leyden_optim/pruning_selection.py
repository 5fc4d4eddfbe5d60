"""Which weights are pruned: those given as pairs, or those of every layer that have one of some names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from leyden.arguments import is_int
from leyden.errors import MisconfigurationException, did_you_mean
from leyden_optim.pruning_method import Method
from leyden_optim.pruning_target import Target, trained_parameter

__all__ = ["PARAMETER_NAMES", "Pair", "check_sizes", "select", "targets_of"]

PARAMETER_NAMES = ("weight", "bias")
Pair = tuple[nn.Module, str]
"""A layer and the name of a parameter in it."""


def select(
    module: nn.Module, pairs: Sequence[Any] | None = (), names: Sequence[str] | None = None, *, whole: bool = False
) -> list[Pair]:
    """Return the layers and names that `pairs` says, or else each parameter of one of `names`, name by name.

    Args:
        module: the model they are in.
        names: "weight" and "bias" by default.
        whole: for a method that prunes slices whole. Without `names`, what has no slices is then left out.

    Raises:
        MisconfigurationException: a layer or parameter is not in the model, or there is none to prune.
    """
    if pairs:
        return _named_pairs(module, pairs)
    found = [
        (layer, name)
        for name in names or PARAMETER_NAMES
        for layer in module.modules()
        if _can_be_pruned(trained_parameter(layer, name), whole and not names)
    ]
    if not found:
        raise MisconfigurationException(
            f"ModelPruning found nothing to prune: no layer of {type(module).__name__} has a parameter named "
            f"{' or '.join(map(repr, names or PARAMETER_NAMES))}"
            f"{' with two or more dimensions' if whole and not names else ''}. Give parameter_names=[...], or "
            "parameters_to_prune=[(layer, name), ...]."
        )
    return found


def _can_be_pruned(parameter: nn.Parameter | None, whole: bool) -> bool:
    return parameter is not None and parameter.is_floating_point() and (not whole or parameter.dim() > 1)


def _named_pairs(module: nn.Module, pairs: Sequence[Any]) -> list[Pair]:
    layers, problems, found = dict(module.named_modules()), [], []
    names = {id(layer): name for name, layer in layers.items()}
    for given, parameter in pairs:
        layer = layers.get(given) if isinstance(given, str) else given
        if layer is None:
            problems.append(f"there is no layer {given!r}.{did_you_mean(given, layers)}")
        elif id(layer) not in names:
            problems.append(f"{type(layer).__name__} (with {parameter!r}) is no part of this model")
        elif trained_parameter(layer, parameter) is None:
            has = [name.removesuffix("_orig") for name in layer._parameters]
            problems.append(
                f"{names[id(layer)] or type(layer).__name__!r} has no parameter {parameter!r}; it has: "
                f"{', '.join(has) or 'none'}.{did_you_mean(parameter, has)}"
            )
        else:
            found.append((layer, parameter))
    if problems:
        raise MisconfigurationException(
            f"ModelPruning(parameters_to_prune=...) does not fit {type(module).__name__}:\n  - "
            + "\n  - ".join(problems)
        )
    return found


def targets_of(module: nn.Module, pairs: Sequence[Pair]) -> list[Target]:
    """Return a target for each parameter of `pairs`, in their order, with every layer of `module` that shares it."""
    names: dict[int, list[str]] = {}
    holders: dict[int, dict[tuple[int, str], Pair]] = {}
    for prefix, layer in module.named_modules(remove_duplicate=False):
        for registered in layer._parameters:
            name = registered.removesuffix("_orig")
            parameter = trained_parameter(layer, name)
            if parameter is not None and parameter is layer._parameters[registered]:
                names.setdefault(id(parameter), []).append(f"{prefix}.{name}" if prefix else name)
                holders.setdefault(id(parameter), {})[id(layer), name] = layer, name
    used = [(one, layer) for one in module.modules() if (layer := _used_without_a_call(one)) is not None]
    targets: dict[int, Target] = {}
    for layer, name in pairs:
        key = id(trained_parameter(layer, name))
        where = list(holders[key].values())
        callers: list[tuple[nn.Module, nn.Module, str]] = [
            (one, held, own) for one, layer in used for held, own in where if layer is held
        ]
        targets.setdefault(key, Target(names[key], where, callers))
    return list(targets.values())


def _used_without_a_call(module: nn.Module) -> nn.Module | None:
    """Return the layer in `module` whose weight it uses itself.

    Attention uses that of its last one, a fused layer of quantisation-aware training that of its BatchNorm.
    """
    if isinstance(module, nn.MultiheadAttention):
        return module.out_proj
    if type(module).__module__.startswith("torch.ao.nn.intrinsic.qat."):
        return module._modules.get("bn")
    return None


def check_sizes(targets: Sequence[Target], method: Method, amount: object, together: bool) -> None:
    """Refuse what cannot be pruned so: without values yet, without the dimension, or smaller than the amount.

    Args:
        amount: a count, where the method takes one, is compared with the sizes.
        together: whether all are one to the method.
    """
    count = amount if is_int(amount) and method.takes_amount else 0
    problems = [
        f"{target.label} {wrong}"
        for target in targets
        if (wrong := _wrong_with(target.parameter, method, 0 if together else count)) is not None
    ]
    total = sum(target.parameter.numel() for target in targets) if together and not problems else count
    if count > total:
        problems.append(f"there are {total} weights in all, fewer than amount={count}")
    if problems:
        raise MisconfigurationException("ModelPruning cannot prune what it should:\n  - " + "\n  - ".join(problems))


def _wrong_with(parameter: nn.Parameter, method: Method, count: int) -> str | None:
    shape, dim = tuple(parameter.shape), method.dim
    if isinstance(parameter, UninitializedParameter):
        return "has no values yet: run a batch through the model before fit"
    if not parameter.is_floating_point():
        return f"holds {parameter.dtype}; only floating point numbers are pruned"
    if dim is not None and len(shape) < 2:
        return (
            f"has the shape {shape}, without slices along pruning_dim={dim}: leave it out "
            "(parameter_names=['weight']), or use an unstructured method"
        )
    if dim is not None and not -len(shape) <= dim < len(shape):
        return f"has the shape {shape}, and no dimension {dim}: give pruning_dim=0 for its outputs, or leave it out"
    if len(shape) not in _DIMENSIONS.get(method.norm, [len(shape)]):
        return f"has the shape {shape}, of whose slices torch has no norm {method.norm!r}: give a number, such as 2"
    size = parameter.numel() if dim is None else shape[dim]
    if count > size:
        what = "weights" if dim is None else f"slices along pruning_dim={dim}"
        return f"has {size} {what}, fewer than amount={count}"
    return None


_DIMENSIONS: dict[object, list[int]] = {"fro": [2, 3], "nuc": [3]}
"""Of weights whose slices have a norm by that name: such as are matrices; of "fro" also vectors."""
