"""Training and evaluation mode of a module's parts: kept as the user set them."""

from __future__ import annotations

from torch import nn

from leyden.rank_zero import rank_zero_warn

__all__ = ["modes_of", "restore_modes", "warn_of_eval_mode"]

Modes = list[tuple[nn.Module, bool]]


def modes_of(module: nn.Module) -> Modes:
    """Return each part of `module`, itself included, with whether it is in training mode."""
    return [(part, part.training) for part in module.modules()]


def restore_modes(modes: Modes) -> None:
    """Give each part the mode it had, whatever the others are in."""
    for part, training in modes:
        if part.training != training:
            part.training = training


def warn_of_eval_mode(module: nn.Module) -> None:
    """Warn before training of parts that are in evaluation mode and yet have parameters to train.

    A frozen part in evaluation mode is meant so. A pretrained network that came in evaluation mode, or a module that
    was evaluated by hand before, would train without dropout and with fixed statistics, and nothing would show it.
    """
    names: list[str] = []
    for name, part in module.named_modules():
        inside_named = any(known == "" or name.startswith(f"{known}.") for known in names)
        if not part.training and not inside_named and any(p.requires_grad for p in part.parameters()):
            names.append(name)
    if names:
        kind = type(module).__name__
        shown = ", ".join(f"{kind}.{name}" if name else f"the whole {kind}" for name in names[:5])
        rank_zero_warn(
            f"{shown}{', …' if len(names) > 5 else ''}: in evaluation mode at the start of training, with parameters "
            "that are trained. fit keeps the modes as they are: call .train() there first, or freeze the parameters "
            "(requires_grad_(False)) if the mode is meant."
        )
