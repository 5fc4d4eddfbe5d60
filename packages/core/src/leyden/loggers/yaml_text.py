"""Hyperparameters as YAML text, without a YAML library: only what plain data needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["to_yaml"]


def to_yaml(value: Any) -> str:
    """Return `value` as a YAML document; strings and unusual keys are quoted, so that every YAML reader agrees.

    What is not plain data (a module, a function) is written as the text it prints.

    Example:
        >>> print(to_yaml({"lr": 0.1, "layers": [8, 2], "optimizer": {"name": "sgd"}, "seed": None}), end="")
        lr: 0.1
        layers:
        - 8
        - 2
        optimizer:
          name: "sgd"
        seed: null
    """
    lines = _lines(value)
    return "\n".join(lines) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [line for key, part in value.items() for line in _entry(f"{_key(key)}:", part, indent="  ")]
    if isinstance(value, (list, tuple, set, frozenset)) and value:
        return [line for part in value for line in _item(part)]
    return [_scalar(value)]


def _entry(head: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Mapping) and value:
        return [head, *(indent + line for line in _lines(value))]
    if isinstance(value, (list, tuple, set, frozenset)) and value:
        return [head, *_lines(value)]
    return [f"{head} {_scalar(value)}"]


def _item(value: Any) -> list[str]:
    first, *rest = _lines(value)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _key(key: Any) -> str:
    text = str(key)
    plain = text.isidentifier() and text.lower() not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    return text if plain and text.isascii() else _quoted(text)


def _scalar(value: Any) -> str:
    if value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if value != value else ".inf" if value > 0 else "-.inf"
        text = repr(float(value))
        # YAML 1.1 reads 1e-05 as a string: its floats have a dot
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[]"
    if isinstance(value, Mapping):
        return "{}"
    return _quoted(str(value))


def _quoted(text: str) -> str:
    """Quote as JSON does, but for what only YAML can't read: surrogate pairs and the unescaped DEL."""
    escaped = "".join(_escaped(sign) for sign in text)
    return f'"{escaped}"'


def _escaped(sign: str) -> str:
    if ord(sign) > 0xFFFF:
        return f"\\U{ord(sign):08x}"
    return "\\x7f" if sign == "\x7f" else json.dumps(sign)[1:-1]
