"""A search for a learning rate: losses at rising rates, where they fall steepest, and a picture of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from leyden.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LearningRateSearch", "Mode"]

Mode = Literal["exponential", "linear"]

_SMOOTHING = 0.98


@dataclass
class LearningRateSearch:
    """What a search found: `results` has the rates under ``"lr"`` and the losses, smoothed, under ``"loss"``.

    The loss is a moving average of the steps' losses with the factor 0.98, free of its bias to zero, as in fast.ai. The
    test itself is from L. Smith, Cyclical Learning Rates for Training Neural Networks, https://arxiv.org/abs/1506.01186.

    Attributes:
        mode: how the rates rise: by a factor (``"exponential"``) or by an amount (``"linear"``).
        lr_min: the rate of the first step.
        lr_max: the rate of the last step.
        num_training: optimizer steps from one to the other.
        results: the rates of the steps that were made, and the losses; two lists of the same length.

    Example:
        >>> rates = [10.0**exponent for exponent in range(-5, 0)]
        >>> search = LearningRateSearch("exponential", 1e-5, 0.1, 5, {"lr": rates, "loss": [9.0, 8.9, 5.0, 4.0, 9.0]})
        >>> search.suggestion(skip_begin=0, skip_end=0)
        0.001
    """

    mode: Mode
    lr_min: float
    lr_max: float
    num_training: int
    results: dict[str, list[float]] = field(default_factory=lambda: {"lr": [], "loss": []})
    _total: float = field(default=0.0, repr=False)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step, from 0: `lr_min` at the first and `lr_max` at the last."""
        part = step / (self.num_training - 1)
        if self.mode == "linear":
            return self.lr_min + part * (self.lr_max - self.lr_min)
        return float(self.lr_min * (self.lr_max / self.lr_min) ** part)

    def add(self, lr: float, loss: float) -> float:
        """Take the loss of a step at `lr`; return it smoothed."""
        self._total = _SMOOTHING * self._total + (1 - _SMOOTHING) * loss
        smooth = self._total / (1 - _SMOOTHING ** (len(self.results["loss"]) + 1))
        self.results["lr"].append(lr)
        self.results["loss"].append(smooth)
        return smooth

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        """Return the learning rate at which the loss falls steepest, seen along the steps of the search.

        `skip_begin` and `skip_end` points at the ends are left out, since the losses there mislead. None, with a
        warning, where fewer than two points are left.
        """
        place = self._steepest(skip_begin, skip_end)
        return None if place is None else self.results["lr"][place]

    def _steepest(self, skip_begin: int, skip_end: int) -> int | None:
        losses = self.results["loss"]
        places = [i for i in range(skip_begin, len(losses) - skip_end) if math.isfinite(losses[i])]
        if len(places) < 2:
            rank_zero_warn(
                f"no learning rate can be suggested: of {len(losses)} losses, {len(places)} are left without the first "
                f"{skip_begin} and the last {skip_end} and those that are not finite. Give it more steps, another "
                "range of rates, or a higher early_stop_threshold."
            )
            return None
        slopes = torch.gradient(torch.tensor([losses[place] for place in places], dtype=torch.float64))[0]
        return places[int(slopes.argmin())]

    def plot(self, suggest: bool = False, show: bool = False, ax: Axes | None = None) -> Figure:
        """Return a figure of losses over rates, with the suggestion as a point where `suggest` asks for it.

        It is one of pyplot's: ``figure.show()`` opens a window, and ``matplotlib.pyplot.close(figure)`` lets go of it.

        Args:
            show: open a window with it, and wait until it is closed.
            ax: axes to draw into; then the figure they are in is returned.

        Raises:
            ImportError: matplotlib is not installed; how to install it.
        """
        figure: Any
        if ax is None:
            figure, ax = _new_figure()
        else:
            figure = ax.figure
        ax.plot(self.results["lr"], self.results["loss"])
        if self.mode == "exponential":
            ax.set_xscale("log")
        ax.set_xlabel("Learning rate")
        ax.set_ylabel("Loss")
        place = self._steepest(10, 1) if suggest else None
        if place is not None:
            ax.plot(self.results["lr"][place], self.results["loss"][place], "o", color="red")
        if show:
            import matplotlib.pyplot as plt

            plt.show()
        drawn: Figure = figure
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Return this as plain data."""
        return {
            "mode": self.mode,
            "lr_min": self.lr_min,
            "lr_max": self.lr_max,
            "num_training": self.num_training,
            "results": {name: list(values) for name, values in self.results.items()},
        }


def _new_figure() -> tuple[Any, Any]:
    """Return a figure of pyplot's: no other can be shown by ``figure.show()``, nor by a notebook as its cell ends."""
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(
            "LearningRateSearch.plot needs matplotlib, which is not installed here. To install it: pip install "
            "matplotlib. The numbers are in `results`.",
            name="matplotlib",
        ) from None
    figure, axes = plt.subplots(layout="constrained")
    return figure, axes
