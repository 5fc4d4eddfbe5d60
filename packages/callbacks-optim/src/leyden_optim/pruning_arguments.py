"""The arguments of `ModelPruning`, checked before there is a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeGuard

from torch import nn

from leyden.arguments import is_int, is_name, is_number, takes
from leyden_optim.pruning_method import is_amount

__all__ = ["Switch", "answer", "mistakes"]

Switch: TypeAlias = bool | Callable[[int], bool]
"""Yes, no, or a function that says so of an epoch, which counts from 0."""


def answer(switch: Switch, epoch: int) -> bool:
    """Return what a switch says of an epoch."""
    return bool(switch(epoch)) if callable(switch) else switch


def mistakes(
    switches: dict[str, Any],
    flags: dict[str, Any],
    pairs: Any,
    names: Any,
    amount: Any,
    dim: Any,
    norm: Any,
    verbose: Any,
) -> list[str]:
    """Return what is wrong with the arguments that need no more than a look."""
    wrong = [
        (name, value, "True, False or a function of the epoch, such as lambda epoch: epoch < 5")
        for name, value in switches.items()
        if not isinstance(value, bool) and not takes(value, 1)
    ]
    wrong += [(name, value, "True or False") for name, value in flags.items() if not isinstance(value, bool)]
    if not takes(amount, 1) and not is_amount(amount):
        wrong.append(("amount", amount, "a fraction from 0.0 to 1.0, a count of weights, or a function of the epoch"))
    if names is not None and not (_is_list(names) and all(map(is_name, names))):
        wrong.append(("parameter_names", names, "a list of names, such as ['weight'], or None"))
    if dim is not None and not is_int(dim):
        wrong.append(("pruning_dim", dim, "an int or None"))
    if norm not in (None, "fro", "nuc") and not (is_number(norm) and not math.isnan(norm)):
        wrong.append(("pruning_norm", norm, "a number, 'fro', 'nuc' or None"))
    if verbose not in (0, 1, 2):
        wrong.append(("verbose", verbose, "0, 1 or 2"))
    return [*(f"{name}={value!r}: expected {expected}" for name, value, expected in wrong), *_mistakes_in_pairs(pairs)]


def _mistakes_in_pairs(pairs: object) -> list[str]:
    """Say what is wrong with `parameters_to_prune`, before there is a module to look it up in."""
    if pairs is None or (_is_list(pairs) and all(map(_is_pair, pairs))):
        return []
    return [
        f"parameters_to_prune={pairs!r:.100}: expected a list of pairs, of a layer (the nn.Module, or its name in the "
        "model) and the name of a parameter in it, such as [(model.head, 'weight')]"
    ]


def _is_pair(pair: object) -> bool:
    return _is_list(pair) and len(pair) == 2 and isinstance(pair[0], nn.Module | str) and is_name(pair[1])


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)
