"""A slip of the pen is told from a method of another framework."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.hooks.contract import HOOKS, hooks_of_callbacks
from leyden.hooks.spelling import edits_between, near_miss

HOOK_NAMES = hooks_of_callbacks(older=True)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("on_train_batch_ends", "on_train_batch_end"),
        ("on_trian_start", "on_train_start"),
        ("on_validation_epoch_ended", "on_validation_epoch_end"),
        ("on_val_batch_end", "on_validation_batch_end"),
        ("on_training_start", "on_train_start"),
        ("on_validate_end", "on_validation_end"),
        ("onn_fit_start", "on_fit_start"),
        ("on_save_checkpoints", "on_save_checkpoint"),
        ("on_exeption", "on_exception"),
    ],
)
def test_near_misses(name: str, meant: str) -> None:
    assert near_miss(name, HOOK_NAMES) == meant


@pytest.mark.parametrize(
    "name",
    [
        *("on_train_begin", "on_epoch_begin", "on_batch_begin", "on_test_begin", "on_predict_begin"),  # Keras
        *("on_step_begin", "on_step_end", "on_substep_end", "on_evaluate", "on_predict", "on_save", "on_log"),
        *("on_prediction_step", "on_optimizer_step", "on_pre_optimizer_step"),  # Transformers
        *("on_eval_start", "on_eval_epoch_end", "on_train_step_start", "on_eval_step_end"),  # TorchTNT
    ],
)
def test_hooks_of_other_frameworks_are_no_near_misses(name: str) -> None:
    assert near_miss(name, HOOK_NAMES) is None


def test_every_hook_is_nearest_to_itself() -> None:
    assert all(near_miss(name, HOOKS) == name for name in HOOKS)


def test_nothing_is_near_to_nothing() -> None:
    assert near_miss("on_fit_start", []) is None


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)]
)
def test_edits(a: str, b: str, edits: int) -> None:
    assert edits_between(a, b) == edits


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_are_symmetric_and_bounded(a: str, b: str) -> None:
    edits = edits_between(a, b)
    assert edits == edits_between(b, a)
    assert abs(len(a) - len(b)) <= edits <= max(len(a), len(b))
    assert (edits == 0) == (a == b)
