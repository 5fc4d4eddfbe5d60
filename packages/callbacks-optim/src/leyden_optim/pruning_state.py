"""What a checkpoint keeps of a pruning: masks, the values behind them, and those that weights return to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leyden.errors import MisconfigurationException
from leyden_optim.pruning_target import Target

__all__ = ["State", "copied_state", "restore", "state_of"]

State = dict[str, dict[str, Tensor]]


def state_of(targets: Sequence[Target], initial: Mapping[str, Tensor]) -> State:
    """Return the tensors themselves, without copies; nothing where there is nothing to keep.

    What is behind a mask counts for no output, but decay and momentum go on with it: without it the optimizer of a run
    that goes on would not be the same.
    """
    masked = [(target, target.mask) for target in targets]
    state = {
        "masks": {target.label: mask != 0 for target, mask in masked if mask is not None},
        "originals": {target.label: target.parameter.detach() for target, mask in masked if mask is not None},
        "initial": dict(initial),
    }
    return state if any(state.values()) else {}


def copied_state(state: State) -> State:
    """Return a copy on the CPU."""
    return {
        part: {name: value.to("cpu", copy=True) for name, value in values.items()} for part, values in state.items()
    }


def restore(targets: Sequence[Target], state: Mapping[str, Any], owner: str) -> dict[str, Tensor]:
    """Mask the weights as `state` says; return the values that they return to.

    Raises:
        MisconfigurationException: something was pruned that is not among the targets, and would lose its mask.
    """
    named = {target.label: target for target in targets}
    masks, originals, initial = state["masks"], state["originals"], state["initial"]
    for label, mask in masks.items():
        if label not in named or named[label].parameter.shape != mask.shape:
            raise MisconfigurationException(
                f"the checkpoint's run had pruned {label!r}, of the shape {tuple(mask.shape)}, which {owner} does not "
                f"prune in this model; it prunes: {', '.join(named)}. Give the same parameters_to_prune, or more, or "
                "fit without ckpt_path."
            )
    returned = {}
    for label, target in named.items():
        device = target.parameter.device
        if label in masks:
            target.apply(masks[label].to(device, target.parameter.dtype))
            target.set(originals[label].to(device))
        elif target.mask is not None:  # the module was trained before, and its masks were left on it
            target.apply(torch.ones_like(target.whole_mask))
        if label in initial:
            returned[label] = initial[label].to(device, copy=True)
    return returned
