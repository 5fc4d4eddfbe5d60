"""How much of a model is pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leyden.tables import render_table

__all__ = ["Sparsity", "sparsity_table"]


@dataclass(frozen=True)
class Sparsity:
    """How many weights of a parameter are pruned.

    Attributes:
        name: the parameter's, in the model.
        layer: the class of the layer that holds it.
        weights: how many numbers it has.
        pruned: how many of them are pruned.

    Example:
        >>> Sparsity("head.weight", "Linear", weights=200, pruned=50).fraction
        0.25
    """

    name: str
    layer: str
    weights: int
    pruned: int

    @property
    def fraction(self) -> float:
        """Pruned ones among all; 0.0 where there are none."""
        return self.pruned / self.weights if self.weights else 0.0


def sparsity_table(after: Sequence[Sparsity], before: Sequence[Sparsity] = (), title: str = "") -> str:
    """Return a table with a line for each and one for all; with `before` also of what was pruned then.

    Example:
        >>> print(sparsity_table([Sparsity("head.weight", "Linear", 200, 50), Sparsity("head.bias", "Linear", 10, 0)]))
        ┌─────────────┬────────┬─────────┬────────┬──────────┐
        │ parameter   │ layer  │ weights │ pruned │ sparsity │
        ├─────────────┼────────┼─────────┼────────┼──────────┤
        │ head.weight │ Linear │     200 │     50 │  25.00 % │
        │ head.bias   │ Linear │      10 │      0 │   0.00 % │
        │ all         │        │     210 │     50 │  23.81 % │
        └─────────────┴────────┴─────────┴────────┴──────────┘
    """
    lines = [*after, total_of(after)]
    earlier = [*before, total_of(before)] if before else []
    rows: list[list[object]] = [
        [one.name, one.layer, one.weights, *([earlier[index].pruned] if earlier else []), one.pruned, _percent(one)]
        for index, one in enumerate(lines)
    ]
    headers = ["parameter", "layer", "weights", *(["before"] if earlier else []), "pruned", "sparsity"]
    return render_table(headers, rows, title=title)


def total_of(parts: Sequence[Sparsity]) -> Sparsity:
    """Return the sum."""
    return Sparsity("all", "", sum(one.weights for one in parts), sum(one.pruned for one in parts))


def _percent(one: Sparsity) -> str:
    return f"{100 * one.fraction:6.2f} %"
