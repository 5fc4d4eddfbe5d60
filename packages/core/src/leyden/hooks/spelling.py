"""Tells a misspelt hook from a method that merely begins like one."""

from __future__ import annotations

import functools
from collections.abc import Collection

__all__ = ["edits_between", "near_miss"]

_SHORT = 8
_OTHER_WORDS = {
    "val": "validation", "validate": "validation", "training": "train", "testing": "test", "prediction": "predict",
    "predicting": "predict", "started": "start", "ended": "end",
}  # fmt: skip
_OTHER_NAMES = {"train_step": "training_step", "valid_step": "validation_step", "eval_step": "validation_step"}


def near_miss(name: str, hooks: Collection[str]) -> str | None:
    """Return the hook that `name` was meant to be: two slips of the pen away (one in a short name), or in other words.

    Names of other frameworks are further away than that: ``on_train_begin`` is four edits from ``on_train_end``.

    Example:
        >>> near_miss("on_train_batch_ends", ["on_train_batch_end", "on_train_batch_start"])
        'on_train_batch_end'
        >>> near_miss("on_val_start", ["on_validation_start"])
        'on_validation_start'
        >>> near_miss("on_train_begin", ["on_train_end", "on_train_start"]) is None
        True
    """
    return _nearest(name, tuple(hooks))


@functools.lru_cache(maxsize=1024)
def _nearest(name: str, hooks: tuple[str, ...]) -> str | None:
    """Remembered, since every Trainer asks it of the same classes."""
    if (other := _OTHER_NAMES.get(name)) in hooks:
        return other
    slips = 1 if len(name) <= _SHORT else 2
    reworded = "_".join(_OTHER_WORDS.get(word, word) for word in name.split("_"))
    distances = [
        (edits_between(spelling, hook), hook)
        for hook in hooks
        for spelling in {name, reworded}
        if _may_be_near(spelling, hook, slips)
    ]
    nearest = min(distances, default=(slips + 1, ""))
    return nearest[1] if nearest[0] <= slips else None


def _may_be_near(a: str, b: str, slips: int) -> bool:
    """Whether lengths and letters leave it open; an edit mends one of either, and counting edits takes 50 us."""
    return abs(len(a) - len(b)) <= slips >= max(len(set(a) - set(b)), len(set(b) - set(a)))


def edits_between(a: str, b: str) -> int:
    """Count the letters to insert, drop, replace or swap with their neighbour that make `a` into `b`."""
    before_last: list[int] = []
    last = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
        before_last, last = last, row
    return last[-1]
