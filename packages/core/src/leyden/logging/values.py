"""What may be logged, and which error the rest gets."""

from __future__ import annotations

import sys
from numbers import Number
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from leyden.errors import MisconfigurationException, with_article

if TYPE_CHECKING:
    from leyden.logging.records import Record

__all__ = ["check_tensor", "is_collection", "is_metric", "plain_number", "raise_changed_kind", "unusual_value"]


def is_metric(value: object) -> bool:
    """Whether `value` is a torchmetrics `Metric`; nobody has one where torchmetrics was never imported."""
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.Metric)


def is_collection(value: object) -> bool:
    """Whether `value` is a torchmetrics `MetricCollection`."""
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.MetricCollection)


def plain_number(name: str, value: Any) -> float:
    """Return numbers that are neither int nor float, such as bools and numpy scalars, as one."""
    if isinstance(value, Number) and not isinstance(value, complex):
        try:
            return float(value)  # type: ignore[arg-type]
        except OverflowError as error:
            raise ValueError(
                f"self.log({name!r}, ...) was called with a number beyond the range of a float: {_short(value)}. Log "
                "its logarithm, or a part of it."
            ) from error
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:  # np.bool_ is no Number
        return float(value)
    hint = ""
    if isinstance(value, dict):
        hint = " For a dict of metrics there is self.log_dict(...)."
    elif hasattr(value, "mean"):
        hint = f" Log one number of it, such as its mean: self.log({name!r}, value.mean())."
    raise ValueError(
        f"self.log({name!r}, ...) was called with a value of type {type(value).__name__}: {_short(value)}. "
        "What can be logged is a number, a tensor with one element, or a torchmetrics Metric or MetricCollection."
        f"{hint}"
    )


def check_tensor(name: str, value: Tensor) -> None:
    """Refuse tensors that are not one real number."""
    if value.numel() != 1:
        raise ValueError(
            f"self.log({name!r}, ...) was called with a tensor of shape {tuple(value.shape)}. A logged tensor has one "
            f"element; reduce it first: self.log({name!r}, value.mean())."
        )
    if value.is_complex():
        raise ValueError(
            f"self.log({name!r}, ...) was called with a complex tensor. Log a real number of it: "
            f"self.log({name!r}, value.abs())."
        )


def raise_changed_kind(hook: str, name: str, value: object) -> NoReturn:
    """Raise the error for a name under which both a metric object and plain values were logged."""
    raise MisconfigurationException(
        f"self.log({name!r}, ...) in `{hook}` got {with_article(type(value).__name__)} after values of another kind: a "
        "metric object and plain values can't be reduced together. Use two names."
    )


def unusual_value(name: str, value: Any, record: Record, enable_graph: bool) -> Any:
    """Return what `record` takes of what is no plain tensor or number: metrics, parameters, numpy's, with a graph."""
    if record.kind == "metric":
        return value
    if is_metric(value):
        raise_changed_kind(record.key[0], name, value)
    if isinstance(value, Tensor):
        check_tensor(name, value)
        if enable_graph:
            return value.clone()
        return value.item() if value.is_cpu else value.detach().as_subclass(Tensor).clone()
    return plain_number(name, value)


def _short(value: object) -> str:
    try:
        text = repr(value).replace("\n", " ")
    except ValueError:  # an int of more digits than Python writes out
        text = object.__repr__(value)
    return text if len(text) <= 60 else text[:57] + "..."
