"""What FSDP shards, and how weights come to be the same in all processes before it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from leyden.errors import MisconfigurationException
from leyden.runtime.collectives import share_from_first
from leyden.runtime.meta import fill_meta

__all__ = [
    "Gathering",
    "check_hooks",
    "check_ties",
    "gather_for_calls",
    "gathered_step",
    "gathering_of",
    "give_back",
    "place_whole",
    "roots_of",
]

_RECORD = "_leyden_gathering"


def roots_of(module: nn.Module) -> list[nn.Module]:
    """Return the outermost parts of `module` that run by themselves.

    Under manual optimisation a step goes backward through them while it runs, before the module as a whole is done.

    Raises:
        MisconfigurationException: the module has parameters beside its parts.
    """
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if own:
        raise MisconfigurationException(
            f"strategy='fsdp' under manual optimisation shards the layers of {type(module).__name__}, each for itself, "
            f"and {', '.join(own)} belongs to none. Put it into a layer with a forward of its own, or use "
            "strategy='ddp'."
        )
    roots: list[nn.Module] = []
    for child in module.children():
        if type(child).forward in (nn.Module.forward, nn.ModuleList.forward, nn.ModuleDict.forward):
            roots += roots_of(child)
        elif next(child.parameters(), None) is not None:
            roots.append(child)
    return roots


def check_ties(module: nn.Module, units: Sequence[nn.Module]) -> None:
    """Refuse weights that two units share: each would have shards of its own.

    Args:
        units: what is sharded, inner ones first.
    """
    unit_of: dict[int, nn.Module] = {}
    for unit in units:
        for one in unit.modules():
            unit_of.setdefault(id(one), unit)
    seen: dict[int, tuple[str, nn.Module | None]] = {}
    for prefix, one in module.named_modules(remove_duplicate=False):
        for name, parameter in one.named_parameters(recurse=False):
            full, unit_here = f"{prefix}.{name}".lstrip("."), unit_of.get(id(one))
            first, first_unit = seen.setdefault(id(parameter), (full, unit_here))
            if first_unit is not unit_here:
                raise MisconfigurationException(
                    f"{first} and {full} are one parameter, and strategy='fsdp' would shard it with two layers. Let "
                    "FSDPStrategy(wrap=...) leave both out, or name a layer that holds both."
                )


def check_hooks(module: nn.Module) -> None:
    """Refuse hooks on the gradients of weights: shards take the weights' place, and have none."""
    for name, parameter in module.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise MisconfigurationException(
                f"{name} has a hook on its gradient, which strategy='fsdp' would lose, since shards take the weights' "
                "place. Change the gradient in on_before_optimizer_step instead, or use strategy='ddp'."
            )


def place_whole(unit: nn.Module, device: torch.device, *, shared: bool) -> None:
    """Move to `device` what of `unit` is not sharded yet, fill what is on the meta device, share from process 0.

    Raises:
        MisconfigurationException: a layer on the meta device does not say how it is filled.
    """
    fill_meta(unit, device)
    tensors = [tensor for one in unit.modules() for tensor in _own(one)]
    for tensor in tensors:
        tensor.data = tensor.data.to(
            device
        ).contiguous()  # as FSDP2 wants it; channels-last inputs remain what they are
    if shared:
        share_from_first(list({id(tensor): tensor for tensor in tensors}.values()))


class Gathering:
    """What a sharded module's weights are gathered for just now: a step of it, or all batches of an evaluation."""

    def __init__(self) -> None:
        self.for_step = self.for_pass = False
        self.methods: dict[str, Any] = {}
        """What was put in the place of the module's methods, which gathers for them."""


def gathering_of(module: Any) -> Gathering:
    """Return the record of a module that `gather_for_calls` was called with."""
    record: Gathering = vars(module)[_RECORD]
    return record


def give_back(module: nn.Module) -> None:
    """Let every process have its shards only. What is still gathered goes stale with the optimizer's next step."""
    for one in module.modules():
        if isinstance(one, FSDPModule):
            one.reshard()


def gather_for_calls(module: Any) -> None:
    """Let ``module(batch)`` gather the weights, except in a step of it, for which they are gathered already.

    FSDP2 takes the end of a call within a step for the end of that step, and would gather everything once more.
    """
    record = vars(module)[_RECORD] = Gathering()
    state = module._get_fsdp_state()
    for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
        handle.remove()
    plain = module.forward
    register_fsdp_forward_method(module, "forward")
    gathered = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if record.for_step:
            return plain(*args, **kwargs)
        result = gathered(*args, **kwargs)
        if not record.for_pass:
            give_back(module)
        return result

    module.forward = forward


def gathered_step(module: Any, name: str) -> Callable[..., Any]:
    """Return a method of `module` that gathers what is in none of its parts, for as long as it runs."""
    record = gathering_of(module)
    # A step of the instance's own, as torch.compile(self.training_step) makes one, gathers as little as the class's.
    if name not in vars(module) or vars(module)[name] is not record.methods.get(name):
        plain = inspect.signature(getattr(module, name))
        register_fsdp_forward_method(module, name)
        # What stands there now is bound a second time, so that its first argument would not be seen.
        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        vars(module)[name].__func__.__signature__ = plain.replace(parameters=[itself, *plain.parameters.values()])
        record.methods[name] = vars(module)[name]
    step = getattr(module, name)

    def run(*args: Any) -> Any:
        record.for_step = True
        try:
            result = step(*args)
        finally:
            record.for_step = False
        if result is None and not record.for_pass:
            give_back(module)  # which a backward would have done
        return result

    return run


def _own(layer: nn.Module) -> Iterator[Tensor]:
    for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
        if not isinstance(tensor, DTensor):
            yield tensor
