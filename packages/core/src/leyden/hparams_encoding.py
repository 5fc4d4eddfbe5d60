"""Hyperparameters as a checkpoint holds them, so that loading them back runs no code.

A dataclass or enum that ``__init__`` declares as such is stored as plain data and built again from that declaration.
"""

from __future__ import annotations

import enum
import inspect
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from leyden.errors import MisconfigurationException

__all__ = ["decode", "encode"]


def encode(cls: type, hparams: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return `hparams` as plain data, and by name the reason why a value is not among it."""
    # Where the state of callbacks is checked too; imported late because the state of a run stands above modules.
    from leyden.state.plain import check_plain

    stored: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, value in hparams.items():
        if isinstance(value, nn.Module):
            left_out[name] = "it is an nn.Module, whose weights are in the state_dict already."
            continue
        plain = _to_plain(value, _declared(cls, name))
        try:
            check_plain(plain, f"hparams[{name!r}]")
        except MisconfigurationException as error:
            left_out[name] = str(error)
        else:
            stored[name] = plain
    return stored, left_out


def decode(cls: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `encode` stored as the values that the ``__init__`` of `cls` declares."""
    return {name: _from_plain(value, _declared(cls, name)) for name, value in stored.items()}


def _declared(cls: type, name: str) -> Any:
    """Return the type that the nearest ``__init__`` with an argument `name` declares for it; None where unknown."""
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if inspect.isfunction(init) and name in _argument_names(init):
            return _hints(init).get(name)
    return None


def _argument_names(function: types.FunctionType) -> tuple[str, ...]:
    code = function.__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _hints(obj: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(obj)
    except Exception:  # names under TYPE_CHECKING or of a function's locals cannot be looked up
        return {}


def _rebuildable(hint: Any) -> type | None:
    """Return the dataclass or enum that `hint` names, alone or beside None; larger unions could not be told apart."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        hint = members[0] if len(members) == 1 else None
    return hint if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, enum.Enum)) else None


def _to_plain(value: Any, hint: Any) -> Any:
    target = _rebuildable(hint)
    if target is None or type(value) is not target:
        return value
    if isinstance(value, enum.Enum):
        return value.value
    hints = _hints(target)
    names = [field.name for field in fields(target) if field.init]
    return {name: _to_plain(getattr(value, name), hints.get(name)) for name in names}


def _from_plain(value: Any, hint: Any) -> Any:
    target = _rebuildable(hint)
    if target is None or value is None or isinstance(value, target):
        return value
    if issubclass(target, enum.Enum):
        return target(value)
    if not isinstance(value, Mapping):
        return value
    hints = _hints(target)
    return target(**{key: _from_plain(item, hints.get(key)) for key, item in value.items()})
