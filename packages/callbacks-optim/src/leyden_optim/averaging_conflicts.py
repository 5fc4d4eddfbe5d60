"""Which callbacks cannot work beside one that averages weights, and why."""

from __future__ import annotations

from leyden.callback import Callback

__all__ = ["conflict_of"]

_AVERAGING = ("WeightAveraging", "StochasticWeightAveraging")
_RESHAPING = {
    "ModelPruning": "it turns weights into others, of other names, during training; prune the averaged weights "
    "in a training of their own",
    "QuantizationAwareTraining": "the ranges it observes are those of the trained weights, not of the averaged ones; "
    "train with averaging first, and quantise the result",
}


def conflict_of(averaging: Callback, other: Callback) -> str | None:
    """Say why `other` cannot work beside `averaging`; None where it can. By name, so that none is imported for it."""
    names = {kind.__name__ for kind in type(other).__mro__}
    if names.intersection(_AVERAGING):
        return (
            f"{type(averaging).__name__} and {type(other).__name__} both leave their average in the module when "
            "training ends, and a checkpoint has one place for it; keep one of them"
        )
    for name, reason in _RESHAPING.items():
        if name in names:
            return f"{type(averaging).__name__} averages weights that {type(other).__name__} changes: {reason}"
    return None
