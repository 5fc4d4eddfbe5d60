"""LearningRateSearch: rates, smoothing, suggestion and plot, each against the formula."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch

from leyden_optim import LearningRateSearch


def search_of(losses: list[float], mode: Any = "exponential") -> LearningRateSearch:
    search = LearningRateSearch(mode, 1e-5, 1.0, len(losses))
    search.results = {"lr": [search.rate_at(step) for step in range(len(losses))], "loss": losses}
    return search


def test_rates_rise_from_the_first_to_the_last_by_a_factor_or_an_amount() -> None:
    by_factor, by_amount = LearningRateSearch("exponential", 1e-4, 1.0, 5), LearningRateSearch("linear", 0.0001, 1.0, 4)
    assert [by_factor.rate_at(step) for step in range(5)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    assert [by_amount.rate_at(step) for step in range(4)] == pytest.approx([0.0001, 0.3334, 0.6667, 1.0])


def test_losses_are_smoothed_without_a_bias_to_zero() -> None:
    search, losses = LearningRateSearch("linear", 0.1, 1.0, 4), [3.0, 5.0, 1.0, 2.0]
    seen = [search.add(0.1, loss) for loss in losses]
    expected = []
    for n in range(1, 5):
        weights = [0.98 ** (n - 1 - place) for place in range(n)]
        expected.append(sum(w * x for w, x in zip(weights, losses, strict=False)) / sum(weights))
    assert seen == pytest.approx(expected)
    assert search.results == {"lr": [0.1] * 4, "loss": seen}


def test_the_suggestion_is_where_the_loss_falls_steepest_between_the_ends_left_out() -> None:
    losses = [100.0, 1.0, *[5.0] * 10, 4.9, 4.0, 3.0, 2.9, 50.0, 0.0]
    search = search_of(losses)
    slopes = torch.gradient(torch.tensor(losses[10:-1], dtype=torch.float64))[0]
    assert search.suggestion() == search.results["lr"][10 + int(slopes.argmin())] == search.results["lr"][13]
    assert search.suggestion(skip_begin=0) == search.results["lr"][0]
    assert search.suggestion(10, 0) == search.results["lr"][-1]
    assert search_of(losses, "linear").suggestion() == pytest.approx(1e-5 + 13 / 17 * (1 - 1e-5))


def test_losses_that_are_not_finite_are_left_out_and_do_not_shift_the_others() -> None:
    losses = [*[5.0] * 11, math.nan, 5.0, 4.0, 2.0, math.inf, math.inf]
    search = search_of(losses)
    assert search.suggestion() == search.results["lr"][14]


@pytest.mark.parametrize("losses", [[1.0] * 12, [1.0] * 11 + [math.nan] * 20, []])
def test_too_few_points_suggest_nothing_and_say_so(losses: list[float]) -> None:
    search = LearningRateSearch("linear", 0.1, 1.0, 100, {"lr": [0.1] * len(losses), "loss": losses})
    with pytest.warns(UserWarning, match=rf"no learning rate can be suggested: of {len(losses)} losses, [01] are left"):
        assert search.suggestion() is None


def test_it_is_plain_data_and_back() -> None:
    search = search_of([3.0, 2.0])
    assert LearningRateSearch(**search.state_dict()) == search
    search.state_dict()["results"]["lr"].clear()
    assert len(search.results["lr"]) == 2


def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    for show in (False, True):
        with pytest.raises(ImportError, match=r"needs matplotlib.*not installed.*pip install matplotlib"):
            search_of([3.0, 2.0]).plot(show=show)


def test_the_plot_shows_losses_over_rates_and_the_suggestion() -> None:
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    search = search_of([*[5.0] * 11, 4.0, 2.0, 9.0])
    figure: Any = search.plot(suggest=True)
    (axes,) = figure.axes
    line, point = axes.lines
    assert list(line.get_xdata()) == search.results["lr"]
    assert list(line.get_ydata()) == search.results["loss"]
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([search.suggestion()], [2.0])
    assert (axes.get_xscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "Learning rate", "Loss")
    assert figure.canvas.manager is not None  # else figure.show() would raise
    pyplot.close(figure)
    own = Figure()
    into = own.subplots()
    assert search_of([3.0, 2.0], "linear").plot(ax=into) is own
    assert (into.get_xscale(), len(into.lines)) == ("linear", 1)
