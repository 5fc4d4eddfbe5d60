"""What is to stay of a module while torch replaces layers in it: modes, BatchNorm layers, and several names of one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["all_in_training", "under_all_names"]


@contextmanager
def all_in_training(root: nn.Module) -> Iterator[None]:
    """Let every part be in training mode, without which torch fuses nothing; then each as it was, new ones as around.

    torch makes other BatchNorm layers of the same tensors where it fuses them. The module's own are put back, so that
    what was done to one holds on, such as a mode of its own, or that finetuning keeps it frozen.
    """
    names = {name: part.training for name, part in root.named_modules()}
    parts = [(part, part.training) for part in root.modules()]
    norms = [part for part, _ in parts if isinstance(part, _BatchNorm) and part.running_mean is not None]
    tracking = [norm.track_running_stats for norm in norms]
    for part, _ in parts:
        part.training = True  # not by train(), of which a frozen BatchNorm only takes note
    for norm in norms:
        norm.track_running_stats = True
    try:
        yield
    finally:
        own = {id(norm.running_mean): norm for norm in norms}
        for part in list(root.modules()):
            for name, child in list(part.named_children()):
                if isinstance(child, _BatchNorm) and id(child.running_mean) in own:
                    setattr(part, name, own[id(child.running_mean)])
        for norm, tracks in zip(norms, tracking, strict=True):
            norm.track_running_stats = tracks
        for name, part in root.named_modules():
            while name not in names:
                name = name.rpartition(".")[0]
            part.training = names[name]
        for part, mode in parts:
            part.training = mode


@contextmanager
def under_all_names(root: nn.Module) -> Iterator[None]:
    """Let what replaces a module that has several names have all of them; torch replaces it under the first only."""
    names_of: Mapping[int, list[str]] = defaultdict(list)
    parts = list(root.named_modules(remove_duplicate=False))  # kept, so that no id is used again meanwhile
    for name, part in parts:
        names_of[id(part)].append(name)
    yield
    for first, *others in names_of.values():
        now = _at(root, first)
        for name in others:
            if now is not None and _at(root, name) not in (None, now):
                root.set_submodule(name, now)


def _at(root: nn.Module, name: str) -> nn.Module | None:
    try:
        return root.get_submodule(name)
    except AttributeError:  # a part of a layer that was replaced
        return None
