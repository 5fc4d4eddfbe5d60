"""The best k checkpoints: who gets in, who leaves. NaN is worse than any number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

__all__ = ["Mode", "as_yaml", "best_of", "is_better", "is_in_top_k", "with_entry", "worst_of"]

Mode = Literal["min", "max"]


def is_better(score: Tensor, other: Tensor, mode: Mode) -> bool:
    """Whether `score` beats `other`; a tie does not.

    Example:
        >>> import torch
        >>> is_better(torch.tensor(1.0), torch.tensor(math.nan), "max")
        True
    """
    return _badness(score, mode) < _badness(other, mode)


def is_in_top_k(score: Tensor, scores: Mapping[str, Tensor], k: int, mode: Mode) -> bool:
    """Whether a checkpoint with `score` belongs among the best `k` (-1: all, 0: none) of those with `scores`."""
    if k == 0:
        return False
    if k == -1 or len(scores) < k:
        return True
    return is_better(score, scores[worst_of(scores, mode)], mode)


def with_entry(
    path: str, score: Tensor, scores: Mapping[str, Tensor], k: int, mode: Mode
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the ranking with the new entry, and the paths that had to leave for it (the worst first)."""
    kept = {other: value for other, value in scores.items() if other != path}
    leaving = []
    while k > 0 and len(kept) >= k:
        worst = worst_of(kept, mode)
        leaving.append(worst)
        del kept[worst]
    kept[path] = score
    return kept, leaving


def best_of(scores: Mapping[str, Tensor], mode: Mode) -> str:
    """Return the path with the best score; of equals the earliest. `scores` must not be empty."""
    return min(scores, key=lambda path: _badness(scores[path], mode))


def worst_of(scores: Mapping[str, Tensor], mode: Mode) -> str:
    """Return the path with the worst score; of equals the earliest. `scores` must not be empty."""
    return max(scores, key=lambda path: _badness(scores[path], mode))


def _badness(score: Tensor, mode: Mode) -> tuple[bool, float]:
    value = float(score)
    return (True, 0.0) if math.isnan(value) else (False, value if mode == "min" else -value)


def as_yaml(scores: Mapping[str, Tensor]) -> str:
    """Return a ranking as YAML: one line per path, with its score.

    Example:
        >>> import torch
        >>> print(as_yaml({"epoch=1.ckpt": torch.tensor(0.5), "epoch=2.ckpt": torch.tensor(math.inf)}), end="")
        "epoch=1.ckpt": 0.5
        "epoch=2.ckpt": .inf
    """
    return "".join(f"{json.dumps(path)}: {_yaml_number(float(score))}\n" for path, score in scores.items())


def _yaml_number(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    # YAML 1.1 reads 1e-05 as a word; with a point it is a number.
    return text if "e" not in text or "." in text else text.replace("e", ".0e")
