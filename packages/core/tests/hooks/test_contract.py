"""The table of hooks agrees with the classes that have them, and with itself."""

from __future__ import annotations

import inspect

import pytest

from leyden.callback import Callback
from leyden.hooks.contract import HOOKS, REMOVED_MODULE_METHODS, hooks_of_callbacks
from leyden.module import LightningModule

TODAY = [name for name, hook in HOOKS.items() if hook.generation is None]
OLDER = [name for name, hook in HOOKS.items() if hook.generation is not None]


def parameters(cls: type, name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(cls, name)).parameters)[1:]


@pytest.mark.parametrize("name", [name for name in TODAY if HOOKS[name].callbacks])
def test_callback_has_every_hook_with_the_arguments_of_the_contract(name: str) -> None:
    assert parameters(Callback, name) == HOOKS[name].full_arguments(module=False)


def test_callback_has_no_hook_beside_the_contract() -> None:
    defined = {name for name in vars(Callback) if name.startswith("on_")}
    assert defined == {name for name in hooks_of_callbacks() if name.startswith("on_")}


SHARED_OR_PLAIN = [n for n in TODAY if HOOKS[n].module and n not in ("backward", "predict_step", "training_step")]


@pytest.mark.parametrize("name", [n for n in SHARED_OR_PLAIN if n not in ("validation_step", "test_step")])
def test_module_has_every_hook_with_the_arguments_of_the_contract(name: str) -> None:
    assert parameters(LightningModule, name) == HOOKS[name].full_arguments(module=True)


@pytest.mark.parametrize("name", OLDER)
def test_hooks_of_older_generations_are_in_no_class_and_name_their_replacement(name: str) -> None:
    assert not hasattr(Callback, name)
    assert not hasattr(LightningModule, name)
    replacement = HOOKS[name].replacement
    assert replacement is not None
    assert all(part in TODAY for part in replacement.replace(" or ", ", ").split(", "))


def test_the_older_hooks_are_those_of_the_specification() -> None:
    assert sorted(OLDER) == [
        "on_batch_end",
        "on_batch_start",
        "on_before_accelerator_backend_setup",
        "on_configure_sharded_model",
        "on_epoch_end",
        "on_epoch_start",
        "on_init_end",
        "on_init_start",
        "on_keyboard_interrupt",
        "on_pretrain_routine_end",
        "on_pretrain_routine_start",
    ]


@pytest.mark.parametrize("name", OLDER)
def test_an_older_hook_stands_beside_hooks_of_today(name: str) -> None:
    assert all(HOOKS[beside].generation is None for beside in HOOKS[name].stands_at)


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_evaluation_hooks_of_a_batch_get_the_dataloader_index_only_where_it_says_something(stage: str) -> None:
    for when in ("start", "end"):
        hook = HOOKS[f"on_{stage}_batch_{when}"]
        assert hook.arguments[-1] == "dataloader_idx"
        assert hook.optional == 1


def test_log_rules() -> None:
    def names(step_allowed: bool | None) -> set[str]:
        return {
            name
            for name, hook in HOOKS.items()
            if (None if hook.log is None else hook.log.step_allowed) is step_allowed and hook.generation is None
        }

    step = names(True)
    assert {"training_step", "on_train_batch_start", "on_train_batch_end", "backward", "optimizer_step"} <= step
    assert {"validation_step", "on_test_batch_end", "on_before_zero_grad"} <= step
    assert names(False) == {
        *(f"on_{stage}_epoch_{when}" for stage in ("train", "validation", "test") for when in ("start", "end")),
        "on_train_start",
        "on_validation_start",
        "on_test_start",
    }
    forbidden = names(None)
    assert {name for name in TODAY if "predict" in name} <= forbidden
    assert {"setup", "teardown", "on_fit_start", "on_train_end", "on_validation_end", "on_exception"} <= forbidden


def test_defaults_of_log_follow_the_stage() -> None:
    def defaults(name: str) -> tuple[bool, bool] | None:
        rule = HOOKS[name].log
        return None if rule is None else (rule.on_step, rule.on_epoch)

    assert defaults("training_step") == (True, False)
    assert defaults("on_train_batch_end") == (True, False)
    assert defaults("on_train_epoch_end") == (False, True)
    assert defaults("validation_step") == (False, True)
    assert defaults("on_test_batch_start") == (False, True)


def test_methods_of_the_module_that_are_gone_say_what_to_do_instead() -> None:
    assert set(REMOVED_MODULE_METHODS) == {
        *(f"{stage}_{kind}" for stage in ("training", "validation", "test") for kind in ("epoch_end", "step_end")),
        *("configure_sharded_model", "tbptt_split_batch"),
    }
    assert REMOVED_MODULE_METHODS["training_epoch_end"].endswith("in on_train_epoch_end")
