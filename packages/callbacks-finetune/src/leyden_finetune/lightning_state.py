"""The state that finetuning callbacks have in checkpoints of Lightning, read as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from leyden_finetune.freezing import is_frozen_norm, own_parameters
from leyden_finetune.groups import named_parameters

__all__ = ["completed", "from_lightning"]

_GROUPS = "internal_optimizer_metadata"


def from_lightning(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in our layout; one that Lightning wrote has the parameter groups alone.

    Example:
        >>> from_lightning({"internal_optimizer_metadata": {0: [{"params": ["head.weight"], "lr": 0.1}]}})
        {'groups': [[{'params': ['head.weight'], 'lr': 0.1}]]}
    """
    if _GROUPS not in state:
        return dict(state)
    groups = state[_GROUPS]
    return {"groups": [groups[index] for index in sorted(groups)]} if groups else {}


def completed(
    state: Mapping[str, Any], optimizers: Sequence[Optimizer], module: nn.Module, epoch: int
) -> dict[str, Any]:
    """Return the state with what Lightning leaves out, as it follows from the groups.

    The module is frozen as before training, and the optimizers are those of that moment: what is in a group that they
    do not have was set free since.
    """
    fresh = [len(optimizer.param_groups) for optimizer in optimizers]
    added = {
        name for groups, count in zip(state["groups"], fresh, strict=False) for one in groups[count:]
        for name in one["params"]
    }  # fmt: skip
    named = named_parameters(module)
    free = {id(one) for name, one in named.items() if name in added}
    held = {name: one for name, one in module.named_modules() if is_frozen_norm(one)}
    return {
        "trainable": [name for name, one in named.items() if one.requires_grad or name in added],
        "frozen_norms": [name for name, one in held.items() if not any(id(p) in free for p in own_parameters(one))],
        "epoch_done": epoch - 1,  # of an epoch that a checkpoint lies within the start is not repeated
        **state,
    }
