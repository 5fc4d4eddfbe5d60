"""What a checkpoint keeps of the optimizers' parameter groups: names in place of tensors."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from leyden.errors import MisconfigurationException

__all__ = ["check_newly_trainable", "describe_groups", "named_parameters", "rebuild_groups"]

Group = dict[str, Any]


def named_parameters(module: nn.Module) -> dict[str, Parameter]:
    """Return the parameters by the names that they have without pruning: ``weight`` for ``weight_orig`` with a mask.

    Pruning masks a weight in training and may be made permanent at its end, before or after a checkpoint is made.
    """
    masks = {name.removesuffix("_mask") for name, _ in module.named_buffers() if name.endswith("_mask")}
    bare = {name: name.removesuffix("_orig") for name, _ in module.named_parameters()}
    return {bare[name] if bare[name] in masks else name: parameter for name, parameter in module.named_parameters()}


def describe_groups(optimizer: Optimizer, module: nn.Module) -> list[Group]:
    """Return the groups with the names of their parameters; None stands for one that the module does not hold."""
    names = {id(parameter): name for name, parameter in named_parameters(module).items()}
    described: list[Group] = []
    for group in optimizer.param_groups:
        options = {key: copy.deepcopy(value) for key, value in group.items() if key not in ("params", "param_names")}
        described.append({"params": [names.get(id(parameter)) for parameter in group["params"]], **options})
    return described


def rebuild_groups(optimizer: Optimizer, described: Sequence[Mapping[str, Any]], module: nn.Module) -> None:
    """Give a fresh optimizer the groups that `describe_groups` returned."""
    named = named_parameters(module)
    known = {id(parameter) for parameter in named.values()}
    strangers = iter([p for group in optimizer.param_groups for p in group["params"] if id(p) not in known])
    groups: list[Group] = []
    for entry in described:
        parameters: list[Parameter] = []
        for name in entry["params"]:
            parameter = next(strangers, None) if name is None else named.get(name)
            if parameter is None:
                raise MisconfigurationException(
                    f"The checkpoint's {type(optimizer).__name__} trains the parameter {name!r}, which this "
                    f"{type(module).__name__} does not have. Resume with the model that was trained, or start without "
                    "ckpt_path and load the weights alone."
                )
            parameters.append(parameter)
        groups.append({**copy.deepcopy({k: v for k, v in entry.items() if k != "params"}), "params": parameters})
    if "param_names" in optimizer.param_groups[0]:
        for group, entry in zip(groups, described, strict=True):
            group["param_names"] = list(entry["params"])
    if _structure(optimizer.param_groups) == _structure(groups):
        return  # also keeps what is not plain data in the groups as the user made it
    optimizer.param_groups.clear()
    for group in groups:
        names = group.pop("param_names", None)
        if names is not None:
            group["params"] = list(zip(names, group["params"], strict=True))
        optimizer.add_param_group(group)


def _structure(groups: Sequence[Group]) -> list[list[int]]:
    return [[id(parameter) for parameter in group["params"]] for group in groups]


def check_newly_trainable(names: Sequence[str], optimizers: Sequence[Optimizer], module: nn.Module, owner: str) -> None:
    """Raise unless each of the parameters just set free is in exactly one parameter group of the optimizers."""
    named = dict(module.named_parameters())
    counts = Counter(id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"])
    for name in names:
        count = counts[id(named[name])]
        if count == 1:
            continue
        if count == 0:
            raise MisconfigurationException(
                f"{owner}.finetune_function made {name!r} trainable, but no optimizer has it, so that it would never "
                "be "
                "trained. Call self.unfreeze_and_add_param_group(modules, optimizer) instead of "
                "self.make_trainable(modules)."
            )
        raise MisconfigurationException(
            f"{owner}.finetune_function made {name!r} trainable, and {count} parameter groups have it, so that each "
            "step "
            "would change it several times. Add it to one optimizer only: finetune_function is called once for each."
        )
