from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden.errors import MisconfigurationException
from leyden.hooks.contract import HOOKS
from leyden.logging.rules import Options, check_name, levels_for, raise_changed_options, reduction_of

STEP_HOOKS = [name for name, hook in HOOKS.items() if hook.log is not None and hook.log.step_allowed]
EPOCH_HOOKS = [name for name, hook in HOOKS.items() if hook.log is not None and not hook.log.step_allowed]
SILENT_HOOKS = [name for name, hook in HOOKS.items() if hook.log is None]


def test_the_defaults_are_those_of_the_stage() -> None:
    assert levels_for("training_step", "x", None, None) == (True, False, True)
    assert levels_for("on_before_optimizer_step", "x", None, None) == (True, False, True)
    assert levels_for("validation_step", "x", None, None) == (False, True, True)
    assert levels_for("on_test_batch_end", "x", None, None) == (False, True, True)
    for hook in EPOCH_HOOKS:
        assert levels_for(hook, "x", None, None) == (False, True, False)


@pytest.mark.parametrize("hook", STEP_HOOKS)
def test_a_step_s_hook_has_every_level(hook: str) -> None:
    assert levels_for(hook, "x", True, True)[:2] == (True, True)
    assert levels_for(hook, "x", False, True)[:2] == (False, True)
    with pytest.raises(MisconfigurationException, match=rf"'x'.*`{hook}` logs nothing"):
        levels_for(hook, "x", False, False)


@pytest.mark.parametrize("hook", EPOCH_HOOKS)
def test_an_epoch_s_hook_has_no_step(hook: str) -> None:
    for levels in [(True, None), (None, False), (True, True)]:
        with pytest.raises(MisconfigurationException, match=rf"'x'.*`{hook}`, which runs once per epoch"):
            levels_for(hook, "x", *levels)


@pytest.mark.parametrize("hook", [*SILENT_HOOKS, "no_hook_at_all"])
def test_elsewhere_nothing_can_be_logged(hook: str) -> None:
    with pytest.raises(MisconfigurationException, match=rf"self.log\('x', ...\) was called in `{hook}`"):
        levels_for(hook, "x", None, None)


def test_outside_a_run_the_error_says_so() -> None:
    with pytest.raises(MisconfigurationException, match="outside a run"):
        levels_for("", "x", None, None)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("mean", "mean"),
        ("avg", "mean"),
        ("sum", "sum"),
        (torch.mean, "mean"),
        (torch.sum, "sum"),
        (torch.max, "max"),
        (torch.min, "min"),
        (sum, "sum"),
        (max, "max"),
        (min, "min"),
        (torch.median, None),
        (lambda column: column[0], None),
    ],
)
def test_known_reductions_run_along(given: Any, meant: str | None) -> None:
    assert reduction_of("x", given) == meant


@pytest.mark.parametrize(("given", "hint"), [("maen", "Did you mean 'mean'"), (3, "reduce_fx=3"), (["mean"], "mean")])
def test_other_reductions_are_errors(given: Any, hint: str) -> None:
    with pytest.raises(MisconfigurationException, match=hint):
        reduction_of("x", given)


def test_names() -> None:
    check_name("val/loss", True)
    check_name("val/dataloader_idx_0", False)
    with pytest.raises(MisconfigurationException, match="add_dataloader_idx=False"):
        check_name("val/dataloader_idx_0", True)
    with pytest.raises(MisconfigurationException, match="a string, not int"):
        check_name(3, True)


def test_the_error_of_changed_options_names_what_changed() -> None:
    before = Options(False, None, True, True, "mean", False, False, None, True, None, False)
    with pytest.raises(
        MisconfigurationException, match=r"`training_step`.*\(prog_bar=False, then prog_bar=True; logger=None"
    ):
        raise_changed_options("training_step", "x", before, before._replace(prog_bar=True, logger=False))
