"""Parameter groups of optimizers: adding one, checking them, and keeping them in a checkpoint, by names."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import LBFGS, Muon, Optimizer

from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn

__all__ = [
    "add_group",
    "check_groups",
    "check_sizes",
    "check_takes",
    "count_groups",
    "describe_groups",
    "name_new_parameters",
    "named_parameters",
    "parameters_of",
    "rebuild_groups",
    "warn_of_untrained",
]

Group = dict[str, Any]

_NUMBERED = re.compile(r"group\d+\.\d+")


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
        options = {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
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
    if "param_names" not in optimizer.param_groups[0]:
        for group in groups:
            group.pop("param_names", None)
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


def parameters_of(*optimizers: Optimizer) -> set[int]:
    """Return the identities of all parameters that the optimizers have."""
    return {id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"]}


def add_group(
    optimizer: Optimizer, parameters: Sequence[Parameter], lr: float | None, denominator: float, name: str | None
) -> None:
    """Add `parameters`, if there are any, as a group with the rate `lr`, or that of the first group over `denominator`.

    A `name` that another group has gets a number.
    """
    if not parameters:
        return
    check_takes(optimizer, parameters)
    first, number = optimizer.param_groups[0], len(optimizer.param_groups)
    group: Group = {"params": list(parameters), "lr": float(first["lr"]) / denominator if lr is None else float(lr)}
    if lr is None and not group["lr"] and "initial_lr" in first:
        group["initial_lr"] = first["initial_lr"] / denominator  # a warm-up begins at 0, which tells no proportion
    if "param_names" in first:  # torch wants names for all groups or for none; see `name_new_parameters`
        group["params"] = [(f"group{number}.{index}", one) for index, one in enumerate(parameters)]
    if name is not None:
        taken = {one.get("name") for one in optimizer.param_groups}
        names = [name, *(f"{name}-{count}" for count in range(2, number + 2))]
        group["name"] = next(one for one in names if one not in taken)
    optimizer.add_param_group(group)


def check_sizes(optimizers: Sequence[Optimizer], saved: Sequence[Any], owner: str, module: nn.Module) -> None:
    """Raise where the optimizers of a run that knew no finetuning have other groups than these have."""
    here = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers]
    try:
        there = [[len(group["params"]) for group in state["param_groups"]] for state in saved]
    except (KeyError, TypeError):
        return  # what is no optimizer's state is told of where it is loaded
    if here != there:
        raise MisconfigurationException(
            f"ckpt_path: the checkpoint was made without {owner}. Its optimizers train {there} parameters, by groups; "
            f"with what {owner} froze it is {here} now. To finetune from its weights, load them by "
            f"{type(module).__name__}.load_from_checkpoint(path) and fit without ckpt_path; to go on with that run, "
            f"leave {owner} out."
        )


def check_takes(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    """Raise `MisconfigurationException` where torch takes a new group without a word, and fails at the next step."""
    kind, odd = type(optimizer).__name__, [one for one in parameters if one.ndim != 2]
    if isinstance(optimizer, LBFGS) and parameters:
        raise MisconfigurationException(
            f"{kind} has one parameter group, and none can be added. Make it of all that is ever to be trained, "
            f"{kind}(self.parameters(), ...): what is frozen rests in it until it is set free."
        )
    if isinstance(optimizer, Muon) and odd:
        raise MisconfigurationException(
            f"{kind} trains matrices only, and {len(odd)} of {len(parameters)} parameters to be added are none, such "
            f"as one of shape {tuple(odd[0].shape)}. Derive a callback from BaseFinetuning which adds these to another "
            "optimizer, or freezes them."
        )


def name_new_parameters(optimizer: Optimizer, module: nn.Module) -> None:
    """Give the parameters that `add_group` could but number the names that they have in the module."""
    if "param_names" not in optimizer.param_groups[0]:
        return
    names = {id(parameter): name for name, parameter in named_parameters(module).items()}
    for group in optimizer.param_groups:
        given = zip(group["param_names"], group["params"], strict=True)
        group["param_names"] = [names.get(id(one), name) if _NUMBERED.fullmatch(name) else name for name, one in given]


def count_groups(module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, int]:
    """Return how many parameter groups have each trainable parameter of the module, by its name."""
    counts = Counter(id(one) for optimizer in optimizers for group in optimizer.param_groups for one in group["params"])
    return {name: counts[id(one)] for name, one in module.named_parameters() if one.requires_grad}


def check_groups(before: Mapping[str, int], after: Mapping[str, int], owner: str) -> None:
    """Raise unless each parameter that was set free or added between two `count_groups` is in exactly one group."""
    for name, count in after.items():
        if count == 1 or before.get(name) == count:
            continue
        if count == 0:
            raise MisconfigurationException(
                f"{owner}.finetune_function made {name!r} trainable, but no optimizer has it, so that it would never "
                "be trained. Call self.unfreeze_and_add_param_group(modules, optimizer) instead of "
                "self.make_trainable(modules)."
            )
        raise MisconfigurationException(
            f"{owner}.finetune_function made {name!r} trainable, and {count} parameter groups have it, so that each "
            "step would change it several times. Add it to one optimizer only: finetune_function is called once for "
            "each."
        )


def warn_of_untrained(counts: Mapping[str, int], owner: str, module: nn.Module) -> None:
    """Warn of trainable parameters that no optimizer has as training starts.

    That is no error: they may join later, as the BatchNorm layers of a frozen backbone do where the optimizer was made
    of the head, and a teacher that follows the trained network is often left trainable.
    """
    names = [name for name, count in counts.items() if not count]
    if names:
        shown = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        rank_zero_warn(
            f"{owner}: {len(names)} trainable parameters are in no optimizer as training starts, and rest until "
            f"finetune_function adds them: {shown}. If they are to be trained from the start, make the optimizer in "
            f"{type(module).__name__}.configure_optimizers of all that is trainable: "
            "Adam([p for p in self.parameters() if p.requires_grad]); if never, freeze them."
        )
