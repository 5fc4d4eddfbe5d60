"""What `QuantizationAwareTraining` can be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from leyden.arguments import is_count, is_name, takes
from leyden.errors import did_you_mean
from leyden_optim.torch_quantization import ENGINES, problem_with_qconfig

__all__ = ["groups_of", "problems_with"]

_STAGES = ("train", "validate", "test", "predict")
_OBSERVERS = ("average", "histogram")


def problems_with(
    qconfig: object,
    observer_type: object,
    collect: object,
    modules_to_fuse: object,
    stages: object,
    flags: Mapping[str, object],
) -> list[str]:
    """Return what is wrong with the arguments, a line for each."""
    problems = []
    wrong = problem_with_qconfig(qconfig)
    if wrong is not None:
        nearest = did_you_mean(qconfig, ENGINES) if isinstance(qconfig, str) else ""
        problems.append(f"qconfig={qconfig!r}: {wrong}.{nearest}")
    if observer_type not in _OBSERVERS:
        nearest = did_you_mean(str(observer_type), _OBSERVERS)
        problems.append(f"observer_type={observer_type!r}: expected 'average' or 'histogram'.{nearest}")
    elif observer_type == "histogram" and not isinstance(qconfig, str):
        problems.append("observer_type='histogram' with a QConfig, which has observers of its own: leave it out")
    if not (collect is None or takes(collect, 1) or is_count(collect, least=1)):
        problems.append(
            f"collect_quantization={collect!r}: expected None, an int >= 1, or a function of the trainer that returns "
            "whether to collect"
        )
    if not _are_groups(modules_to_fuse):
        problems.append(
            f"modules_to_fuse={modules_to_fuse!r}: expected lists of two or more names, as [['conv', 'bn', 'relu']]"
        )
    if not _is_list(stages) or not stages or not all(one in _STAGES for one in stages):
        problems.append(f"observer_enabled_stages={stages!r}: expected a list of some of {', '.join(_STAGES)}")
    for name, value in flags.items():
        if not isinstance(value, bool):
            problems.append(f"{name}={value!r}: expected True or False")
    return problems


def groups_of(modules_to_fuse: Any) -> list[list[str]]:
    """Return the names in groups; like torch, take one group for itself.

    Example:
        >>> groups_of(("conv", "relu")), groups_of(None)
        ([['conv', 'relu']], [])
    """
    groups = list(modules_to_fuse or ())
    return [groups] if groups and all(map(is_name, groups)) else [list(names) for names in groups]


def _are_groups(value: object) -> bool:
    if value is None:
        return True
    if not _is_list(value):
        return False
    groups = [value] if value and all(map(is_name, value)) else value
    return all(_is_list(group) and len(group) > 1 and all(map(is_name, group)) for group in groups)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str)
