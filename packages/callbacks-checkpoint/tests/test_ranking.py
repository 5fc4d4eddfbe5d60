"""The best k: against sorting, with ties and NaN."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leyden_checkpoint.ranking import Mode, as_yaml, best_of, is_better, is_in_top_k, with_entry, worst_of

SCORES = st.lists(st.floats(width=32), min_size=1, max_size=12)


def test_nan_is_worse_than_any_number() -> None:
    nan, infinite = torch.tensor(math.nan), torch.tensor(math.inf)
    assert is_better(infinite, nan, "min")
    assert is_better(-infinite, nan, "max")
    assert not is_better(nan, nan, "min")


def test_a_tie_does_not_replace() -> None:
    scores = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}
    assert not is_in_top_k(torch.tensor(1.0), scores, 2, "min")
    assert (best_of(scores, "min"), worst_of(scores, "min")) == ("a", "a")


def test_all_or_none_may_be_kept() -> None:
    scores = {"a": torch.tensor(1.0)}
    assert is_in_top_k(torch.tensor(9.0), scores, -1, "min")
    assert not is_in_top_k(torch.tensor(0.0), scores, 0, "min")
    kept, leaving = with_entry("b", torch.tensor(9.0), scores, -1, "min")
    assert (list(kept), leaving) == (["a", "b"], [])


def test_a_path_that_is_written_again_has_one_entry() -> None:
    kept, leaving = with_entry("a", torch.tensor(0.5), {"a": torch.tensor(1.0)}, 1, "min")
    assert (kept, leaving) == ({"a": torch.tensor(0.5)}, [])


@given(scores=SCORES, k=st.integers(1, 5), mode=st.sampled_from(["min", "max"]))
def test_what_is_kept_is_what_sorting_puts_first(scores: list[float], k: int, mode: Mode) -> None:
    kept: dict[str, Tensor] = {}
    for number, value in enumerate(scores):
        score = torch.tensor(value)
        if is_in_top_k(score, kept, k, mode):
            kept, _ = with_entry(str(number), score, kept, k, mode)
    direction = 1 if mode == "min" else -1
    order = sorted(scores, key=lambda value: (math.isnan(value), 0.0 if math.isnan(value) else direction * value))
    assert sorted(repr(float(value) + 0.0) for value in kept.values()) == sorted(
        repr(value + 0.0) for value in order[:k]
    )
    assert repr(float(kept[best_of(kept, mode)]) + 0.0) == repr(order[0] + 0.0)  # adding 0.0 makes one zero of two


def test_the_ranking_as_yaml() -> None:
    scores = {'a"b': 1e-5, "c": math.nan, "d": -math.inf, "e": 0.25}
    text = as_yaml({path: torch.tensor(score, dtype=torch.float64) for path, score in scores.items()})
    assert text == '"a\\"b": 1.0e-05\n"c": .nan\n"d": -.inf\n"e": 0.25\n'
