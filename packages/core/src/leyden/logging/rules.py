"""What a call of ``self.log`` asks for, and whether the hook it stands in can give it."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

import torch

from leyden.errors import MisconfigurationException, did_you_mean
from leyden.hooks.contract import HOOKS
from leyden.logging.buffer import Reduction

__all__ = ["Options", "check_name", "levels_for", "raise_changed_options", "reduction_of"]

_REDUCTIONS: dict[Any, Reduction] = {
    "mean": "mean",
    "avg": "mean",
    "sum": "sum",
    "max": "max",
    "min": "min",
    torch.mean: "mean",
    torch.sum: "sum",
    torch.max: "max",
    torch.min: "min",
    builtins.sum: "sum",
    builtins.max: "max",
    builtins.min: "min",
}


class Options(NamedTuple):
    """The arguments of ``self.log`` that must be the same in every step; compared as a plain tuple in the hot path."""

    prog_bar: bool
    logger: bool | None
    on_step: bool | None
    on_epoch: bool | None
    reduce_fx: Any
    enable_graph: bool
    sync_dist: bool
    sync_dist_group: Any
    add_dataloader_idx: bool
    metric_attribute: str | None
    rank_zero_only: bool


def levels_for(hook: str, name: str, on_step: bool | None, on_epoch: bool | None) -> tuple[bool, bool, bool]:
    """Return (`on_step`, `on_epoch`, whether the hook stands in a step), with the hook's defaults filled in."""
    known = HOOKS.get(hook)
    rule = None if known is None else known.log
    if rule is None:
        where = f"in `{hook}`, where no value can be reduced" if hook else "outside a run"
        raise MisconfigurationException(
            f"self.log({name!r}, ...) was called {where}. Log in a step or in another train, validation or test hook; "
            "or write to the logger itself: self.logger.log_metrics({...}, step=...)."
        )
    step = rule.on_step if on_step is None else bool(on_step)
    epoch = rule.on_epoch if on_epoch is None else bool(on_epoch)
    if not rule.step_allowed and (step or not epoch):
        raise MisconfigurationException(
            f"self.log({name!r}, on_step={on_step}, on_epoch={on_epoch}) was called in `{hook}`, which runs once per "
            "epoch: there only on_step=False, on_epoch=True is possible, which is the default."
        )
    if not step and not epoch:
        raise MisconfigurationException(
            f"self.log({name!r}, on_step={on_step}, on_epoch={on_epoch}) in `{hook}` logs nothing: "
            "set on_step=True or on_epoch=True."
        )
    return step, epoch, rule.step_allowed


def reduction_of(name: str, reduce_fx: object) -> Reduction | None:
    """Return the name of a reduction that can run along; ``None`` for a callable, which needs every value."""
    try:
        known = _REDUCTIONS.get(reduce_fx)
    except TypeError:  # not hashable
        known = None
    if known is None and not callable(reduce_fx):
        guess = did_you_mean(reduce_fx, ["mean", "sum", "max", "min"]) if isinstance(reduce_fx, str) else ""
        raise MisconfigurationException(
            f"self.log({name!r}, reduce_fx={reduce_fx!r}): reduce_fx is one of 'mean', 'sum', 'max', 'min', or a "
            f"function that takes the tensor of all logged values.{guess}"
        )
    return known


def check_name(name: object, add_dataloader_idx: bool) -> None:
    """Refuse names that are no strings, or that hold what is added to them."""
    if not isinstance(name, str):
        raise MisconfigurationException(
            f"self.log({name!r}, ...): the name of a metric is a string, not {type(name).__name__}."
        )
    if add_dataloader_idx and "/dataloader_idx_" in name:
        raise MisconfigurationException(
            f"self.log({name!r}, ...): '/dataloader_idx_N' is added to the name where there are several dataloaders. "
            "Leave it out, or pass add_dataloader_idx=False."
        )


def raise_changed_options(hook: str, name: str, before: Options, now: Options) -> None:
    """Raise the error for a name logged in two ways in one hook."""
    changed = [
        f"{field}={getattr(before, field)!r}, then {field}={getattr(now, field)!r}"
        for field in Options._fields
        if getattr(before, field) != getattr(now, field)
    ]
    raise MisconfigurationException(
        f"self.log({name!r}, ...) was called twice in `{hook}` with different arguments ({'; '.join(changed)}). "
        "Use the same arguments or two names."
    )
