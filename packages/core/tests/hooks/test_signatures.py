"""Every way of writing a hook is fitted to the generation it is from, or to none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.hooks.contract import HOOKS
from leyden.hooks.signatures import Fit, fit, takes

T_M = ("trainer", "pl_module")
BATCH_END = (*T_M, "outputs", "batch", "batch_idx")
BATCH_END_1_0 = (*BATCH_END, "dataloader_idx")
BATCH_START_1_0 = (*T_M, "batch", "batch_idx", "dataloader_idx")


def fitted(name: str, method: Callable[..., Any], *, module: bool = False) -> Fit:
    found = fit(HOOKS[name], method, module=module)
    assert found is not None
    return found


def how(name: str, method: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...], str | None, bool]:
    found = fitted(name, method)
    generation = None if found.older is None else found.older.generation
    return found.positional, found.keywords, generation, found.direct


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        # Today's arguments, by position whatever the names.
        ("on_fit_start", lambda trainer, pl_module: 0, (T_M, (), None, True)),
        ("on_fit_start", lambda t, m: 0, (T_M, (), None, True)),
        ("on_fit_start", lambda t, m, extra=1: 0, (T_M, (), None, True)),
        ("on_fit_start", lambda pl_module, trainer: 0, (T_M, (), None, True)),
        ("on_train_batch_end", lambda a, b, c, d, e: 0, (BATCH_END, (), None, True)),
        ("setup", lambda trainer, pl_module, stage=None: 0, ((*T_M, "stage"), (), None, True)),
        # Fewer, by name.
        ("on_fit_start", lambda: 0, ((), (), None, False)),
        ("on_fit_start", lambda trainer: 0, (("trainer",), (), None, False)),
        ("on_fit_start", lambda pl_module: 0, (("pl_module",), (), None, False)),
        ("on_train_batch_end", lambda batch_idx, outputs: 0, (("batch_idx", "outputs"), (), None, False)),
        ("on_train_batch_end", lambda trainer, outputs=None: 0, (("trainer", "outputs"), (), None, False)),
        # Keyword-only parameters get what they name.
        ("setup", lambda trainer, pl_module, *, stage=None: 0, (T_M, ("stage",), None, False)),
        ("setup", lambda t, m, *, stage: 0, (T_M, ("stage",), None, False)),
        ("setup", lambda *, stage: 0, ((), ("stage",), None, False)),
        ("setup", lambda t, m, s, *, verbose=True: 0, ((*T_M, "stage"), (), None, True)),
        # Variable parameters get today's.
        ("on_train_batch_end", lambda *args: 0, (BATCH_END, (), None, True)),
        ("on_train_batch_end", lambda t, *args: 0, (BATCH_END, (), None, True)),
        ("on_train_batch_end", lambda *args, **kwargs: 0, (BATCH_END, (), None, True)),
        ("on_fit_start", lambda **kwargs: 0, ((), T_M, None, False)),
        ("on_fit_start", lambda t, **kwargs: 0, (("trainer",), ("pl_module",), None, False)),
        ("on_train_batch_end", lambda batch, **rest: 0, (("batch",), (*T_M, "outputs", "batch_idx"), None, False)),
        # Older generations.
        ("on_train_batch_end", lambda t, m, o, b, i, unused: 0, (BATCH_END_1_0, (), "1.0-1.6", False)),
        ("on_train_batch_end", lambda t, m, o, b, i, d, *args: 0, (BATCH_END_1_0, (), "1.0-1.6", False)),
        ("on_train_batch_end", lambda t, m, o, b, i, unused=0: 0, (BATCH_END, (), None, True)),
        ("on_train_batch_start", lambda t, m, b, i, d: 0, (BATCH_START_1_0, (), "1.0-1.6", False)),
        ("on_train_epoch_end", lambda t, m, outputs: 0, ((*T_M, "outputs"), (), "1.0-1.2", False)),
        ("on_train_epoch_end", lambda t, m, outputs=None: 0, (T_M, (), None, True)),
        ("on_train_epoch_end", lambda outputs: 0, (("outputs",), (), "1.0-1.2", False)),
        ("on_predict_epoch_end", lambda t, m, results: 0, ((*T_M, "outputs"), (), "1.2-1.9", False)),
        ("on_before_optimizer_step", lambda t, m, o, i: 0, ((*T_M, "optimizer", "opt_idx"), (), "1.4-1.9", False)),
        ("on_save_checkpoint", lambda t, m: 0, (T_M, (), "1.0-1.1", False)),
        ("on_save_checkpoint", lambda t, m, checkpoint: 0, ((*T_M, "checkpoint"), (), None, True)),
        ("on_save_checkpoint", lambda checkpoint: 0, (("checkpoint",), (), None, False)),
        ("on_load_checkpoint", lambda state: 0, (("state",), (), "1.0-1.2", False)),
        ("on_load_checkpoint", lambda t, m, callback_state: 0, ((*T_M, "callback_state"), (), "1.3-1.7", False)),
        ("on_load_checkpoint", lambda t, m, checkpointed_state: 0, ((*T_M, "callback_state"), (), "1.3-1.7", False)),
        ("on_load_checkpoint", lambda t, m, callback_states: 0, ((*T_M, "callback_state"), (), "1.3-1.7", False)),
        ("on_load_checkpoint", lambda t, m, checkpoint: 0, ((*T_M, "checkpoint"), (), None, True)),
        ("on_load_checkpoint", lambda t, m, whatever: 0, ((*T_M, "checkpoint"), (), None, True)),
        ("on_load_checkpoint", lambda callback_state, trainer: 0,
         (("callback_state", "trainer"), (), "1.3-1.7", False)),
        # Hooks that do not get trainer and module.
        ("state_dict", lambda: 0, ((), (), None, True)),
        ("load_state_dict", lambda s: 0, (("state_dict",), (), None, True)),
        ("on_init_start", lambda t: 0, (("trainer",), (), None, True)),
    ],
)  # fmt: skip
def test_how_a_callback_method_is_called(
    name: str, method: Callable[..., Any], expected: tuple[tuple[str, ...], tuple[str, ...], str | None, bool]
) -> None:
    assert how(name, method) == expected


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("on_fit_start", lambda t: 0),
        ("on_fit_start", lambda t, m, x: 0),
        ("on_fit_start", lambda t, m, *, x: 0),
        ("on_fit_start", lambda trainer, *, stage: 0),
        ("on_train_batch_end", lambda t, m, o: 0),
        ("on_train_batch_end", lambda trainer, pl_module, outputs, batch_index=0: 0),
        ("on_train_batch_end", lambda t, m, o, b, i, d, x: 0),
        ("on_train_batch_end", lambda t, m, o, b, i, d, x, *args: 0),
        ("on_train_epoch_end", lambda t, m, o, x: 0),
        ("state_dict", lambda trainer: 0),
        ("load_state_dict", lambda trainer, pl_module, state: 0),
        ("on_load_checkpoint", lambda trainer, state: 0),
        ("on_init_start", lambda t, m: 0),
    ],
)  # fmt: skip
def test_what_fits_no_generation(name: str, method: Callable[..., Any]) -> None:
    assert fit(HOOKS[name], method) is None


@pytest.mark.parametrize(
    ("method", "positional", "direct"),
    [
        (lambda t, m, batch, i, dataloader_idx=0: 0, 5, True),
        (lambda t, m, batch, i, dataloader_idx: 0, 5, False),
        (lambda t, m, batch, i: 0, 4, False),
        (lambda *args: 0, 5, True),
        (lambda trainer, dataloader_idx: 0, 2, False),
    ],
)
def test_the_dataloader_index_of_evaluation_hooks(method: Callable[..., Any], positional: int, direct: bool) -> None:
    found = fitted("on_validation_batch_start", method)
    assert (len(found.positional), found.direct, found.older) == (positional, direct, None)


@pytest.mark.parametrize(
    ("name", "method", "positional", "generation"),
    [
        ("training_step", lambda batch, batch_idx: 0, ("batch", "batch_idx"), None),
        ("training_step", lambda x: 0, ("batch",), None),
        ("validation_step", lambda x, i: 0, ("batch", "batch_idx"), None),
        ("validation_step", lambda x: 0, ("batch",), None),
        ("on_train_epoch_end", lambda outputs: 0, ("outputs",), "1.0-1.2"),
        ("on_train_batch_start", lambda b, i, unused: 0, ("batch", "batch_idx", "dataloader_idx"), "1.0-1.6"),
        ("on_before_optimizer_step", lambda o, optimizer_idx: 0, ("optimizer", "opt_idx"), "1.4-1.9"),
        ("on_save_checkpoint", lambda checkpoint: 0, ("checkpoint",), None),
        ("on_fit_start", lambda: 0, (), None),
    ],
)
def test_how_a_module_method_is_called(
    name: str, method: Callable[..., Any], positional: tuple[str, ...], generation: str | None
) -> None:
    found = fitted(name, method, module=True)
    assert (found.positional, found.older and found.older.generation) == (positional, generation)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("training_step", lambda batch, batch_idx, optimizer_idx: 0),
        ("on_fit_start", lambda trainer, pl_module: 0),
        ("on_save_checkpoint", lambda a, b: 0),
        ("on_load_checkpoint", lambda trainer, pl_module, callback_state: 0),
    ],
)
def test_what_fits_no_generation_of_the_module(name: str, method: Callable[..., Any]) -> None:
    assert fit(HOOKS[name], method, module=True) is None


def test_a_callable_without_signature_gets_what_comes() -> None:
    found = fitted("on_fit_start", dict.update)
    assert found.positional == T_M
    assert takes(type("NoSignature", (), {"__call__": dict.update, "__signature__": "none"})()) == "(...)"


@given(st.integers(0, 9))
def test_a_method_with_as_many_arguments_as_a_generation_is_called_by_position(count: int) -> None:
    names = [f"x{i}" for i in range(count)]
    method: Callable[..., Any] = eval(f"lambda {', '.join(names)}: 0")
    found = fit(HOOKS["on_train_batch_end"], method)
    # None at all is "fewer, all of them named": it holds of an empty list.
    assert (found is not None) == (count in (0, 5, 6))
    assert found is None or len(found.positional) == count


def test_takes_shows_the_parameters() -> None:
    def method(trainer: object, *args: object, verbose: bool = True, **kwargs: object) -> None: ...

    assert takes(method) == "(trainer, *args, verbose, **kwargs)"
