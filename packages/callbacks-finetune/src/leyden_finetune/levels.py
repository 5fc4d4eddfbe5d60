"""Which parameters of a backbone each level of a strategy sets free, by patterns of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.nn.parameter import Parameter

from leyden.arguments import is_int, is_name, refuse
from leyden.errors import did_you_mean
from leyden_finetune.freezing import is_norm, own_parameters
from leyden_finetune.groups import named_parameters

__all__ = ["Level", "check_levels", "is_strategy", "read_strategy", "share_out"]


@dataclass(frozen=True, slots=True)
class Level:
    """What is set free at an epoch: the parameters whose names, or those of a module they are in, fit a pattern."""

    number: int
    epoch: int
    patterns: tuple[str, ...] = ("*",)

    @property
    def name(self) -> str:
        """The name of its parameter group: ``backbone.layer4``, ``backbone.layer1+layer2``."""
        return "backbone" if self.patterns == ("*",) and not self.number else f"backbone.{'+'.join(self.patterns)}"


def is_strategy(strategy: object) -> bool:
    """Whether it is a dict of epochs, as numbers or as the strings that TOML has, with lists of patterns."""
    if not isinstance(strategy, Mapping) or not strategy:
        return False
    keys = [int(key) if isinstance(key, str) and key.isdecimal() else key for key in strategy]
    return (
        all(is_int(key) and key >= 0 for key in keys)
        and len({*keys}) == len(keys)
        and all(isinstance(one, list | tuple) and one and all(map(is_name, one)) for one in strategy.values())
    )


def read_strategy(strategy: Mapping[Any, Sequence[str]]) -> list[Level]:
    """Return the levels in the order of their epochs.

    Example:
        >>> read_strategy({"9": ["*"], 4: ["layer3", "layer4"]})[0]
        Level(number=0, epoch=4, patterns=('layer3', 'layer4'))
    """
    in_order = sorted((int(epoch), tuple(patterns)) for epoch, patterns in strategy.items())
    return [Level(number, *one) for number, one in enumerate(in_order)]


def share_out(levels: Sequence[Level], backbone: nn.Module) -> tuple[list[dict[str, Parameter]], dict[str, Parameter]]:
    """Return the parameters of each level by name, and those of none; what two levels name is of the earlier."""
    left, shares = _named(backbone), []
    for level in levels:
        share = {name: one for name, one in left.items() if any(_fits(name, pattern) for pattern in level.patterns)}
        left = {name: one for name, one in left.items() if name not in share}
        shares.append(share)
    return shares, left


def check_levels(levels: Sequence[Level], backbone: nn.Module, train_bn: bool, owner: str) -> None:
    """Raise `MisconfigurationException` with every pattern that would set nothing free, and why."""
    named = _named(backbone)
    norms = {id(one) for module in backbone.modules() if is_norm(module) for one in own_parameters(module)}
    since: dict[str, int] = {}  # the epoch at which a parameter is set free
    problems: list[str] = []
    for level in levels:
        found: list[str] = []
        for pattern in level.patterns:
            fitting = [name for name in named if _fits(name, pattern)]
            mine = [name for name in fitting if name not in since]
            where = f"strategy={{{level.epoch}: [{pattern!r}, ...]}}" if len(level.patterns) > 1 else (
                f"strategy={{{level.epoch}: [{pattern!r}]}}"
            )  # fmt: skip
            if not fitting:
                problems.append(f"{where}: {_no_such_name(pattern, backbone)}")
            elif not mine:
                problems.append(f"{where}: all it names is set free at epoch {since[fitting[0]]} already.")
            elif not train_bn and all(id(named[name]) in norms for name in mine):
                problems.append(f"{where}: all it names is BatchNorm's, which train_bn=False keeps frozen.")
            found += mine
        since.update(dict.fromkeys(found, level.epoch))
    refuse(owner, problems)


def _named(backbone: nn.Module) -> dict[str, Parameter]:
    return {name.replace("_orig_mod.", ""): one for name, one in named_parameters(backbone).items()}  # torch.compile's


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _fits(name: str, pattern: str) -> bool:
    return any(fnmatchcase(prefix, pattern) for prefix in _prefixes(name))


def _no_such_name(pattern: str, backbone: nn.Module) -> str:
    names = list(dict.fromkeys(prefix for name in _named(backbone) for prefix in _prefixes(name)))
    within = pattern.removeprefix("backbone.")
    if within != pattern and any(fnmatchcase(name, within) for name in names):
        return f"names are those within the backbone: write {within!r}."
    top = [name for name in names if "." not in name]
    hint = did_you_mean(within, names)
    shown = f"{', '.join(top[:10])}{', ...' if len(top) > 10 else ''}"
    return f"no module and no parameter of the backbone has a name like this.{hint} It has {shown or 'no parameters'}."
