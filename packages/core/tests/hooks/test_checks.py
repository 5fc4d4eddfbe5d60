"""What is wrong with callbacks and modules is said at once, with the name and the fix."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from leyden.callback import Callback, LambdaCallback
from leyden.errors import MisconfigurationException
from leyden.hooks.checks import check_callbacks, check_module
from leyden.hooks.findings import overrides
from leyden.module import LightningModule
from leyden.rank_zero import rank_zero_only


def callback_with(**members: Any) -> Callback:
    made: Callback = type("Mine", (Callback,), members)()
    return made


def module_with(**members: Any) -> LightningModule:
    made: LightningModule = type("Net", (LightningModule,), members)()
    return made


def check_either(kind: str, **members: Any) -> None:
    if kind == "callback":
        check_callbacks([callback_with(**members)])
    else:
        check_module(module_with(**members))


def nothing(*args: Any, **kwargs: Any) -> None: ...


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Callback, r"callbacks= holds the class Callback\. Give an instance of it: Callback\(\.\.\.\)\."),
        (
            "EarlyStopping",
            r"callbacks= holds 'EarlyStopping', a str; expected instances of leyden\.Callback\. "
            r"Write `from leyden\.callbacks import EarlyStopping`, and give EarlyStopping\(\.\.\.\)\.$",
        ),
        ("EarlyStoping", r"expected instances of leyden\.Callback\. Did you mean 'EarlyStopping'\?$"),
        (3, r"callbacks= holds 3, an int; expected"),
        (None, r"callbacks= holds None, a NoneType; expected"),
        (nothing, r"callbacks= holds <function nothing .*>, a function; expected"),
    ],
)
def test_what_is_no_callback(given: object, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        check_callbacks([Callback(), given])


@pytest.mark.parametrize("kind", ["callback", "module"])
def test_a_misspelt_hook_is_an_error_that_names_the_right_one(kind: str) -> None:
    name = {"callback": "Mine", "module": "Net"}[kind]
    with pytest.raises(MisconfigurationException) as raised:
        check_either(kind, on_train_batch_ends=nothing)
    assert str(raised.value) == (
        f"{name}.on_train_batch_ends is no hook and would never be called. Did you mean 'on_train_batch_end'? "
        "Rename it, or let its name not begin with 'on_'."
    )


def test_a_misspelt_hook_on_the_instance_is_an_error_too() -> None:
    callback = Callback()
    callback.on_fit_strat = nothing  # type: ignore[attr-defined]
    with pytest.raises(MisconfigurationException, match="Did you mean 'on_fit_start'"):
        check_callbacks([callback])


@pytest.mark.parametrize("kind", ["callback", "module"])
def test_an_unknown_on_method_is_a_warning_once_per_class(kind: str) -> None:
    cls: Any = type("Mine", (Callback if kind == "callback" else LightningModule,), {"on_coffee_break": nothing})

    def check() -> None:
        check_callbacks([cls()]) if kind == "callback" else check_module(cls())

    with pytest.warns(UserWarning, match=r"Mine\.on_coffee_break is no hook; it is not called") as caught:
        check()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check()


def test_attributes_and_private_methods_are_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_callbacks([callback_with(on_train_batch_ends=3, _on_fit_strat=nothing, helper=nothing)])
        check_callbacks([callback_with(training_step=nothing, train_dataloader=nothing)])
        check_module(module_with(on_train_batch_ends=3, _on_fit_strat=nothing, helper=nothing, on_gpu=True))


@pytest.mark.parametrize("kind", ["callback", "module"])
def test_a_hook_of_the_other_is_a_warning(kind: str) -> None:
    name, receiver = {
        "callback": ("on_after_batch_transfer", "the module"),
        "module": ("on_sanity_check_end", "callbacks"),
    }[kind]
    with pytest.warns(UserWarning, match=rf"{name} is never called here: it is a hook of {receiver}\."):
        check_either(kind, **{name: nothing})


def test_the_first_process_alone_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_callbacks([callback_with(on_after_batch_transfer=nothing)])


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("module", "configure_optimizer", "configure_optimizers"),
        ("module", "trainng_step", "training_step"),
        ("module", "val_step", "validation_step"),
        ("module", "train_step", "training_step"),
        ("callback", "teardwon", "teardown"),
        ("callback", "set_up", "setup"),
    ],
)
def test_a_method_that_is_nearly_a_hook_without_on_is_a_warning(kind: str, name: str, meant: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} is no hook. Did you mean '{meant}'?"):
        check_either(kind, **{name: nothing})


def test_no_warning_where_the_right_one_is_there_as_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_module(module_with(val_step=nothing, validation_step=nothing))
        check_callbacks([callback_with(set_up=nothing, setup=nothing)])


@pytest.mark.parametrize("kind", ["callback", "module"])
@pytest.mark.parametrize("value", [5, "later", True])
def test_a_hook_that_cannot_be_called(kind: str, value: object) -> None:
    with pytest.raises(MisconfigurationException, match=r"on_fit_start is .*, which cannot be called, but on_fit"):
        check_either(kind, on_fit_start=value)


def test_a_hook_switched_off_with_none_is_an_error_too() -> None:
    with pytest.raises(MisconfigurationException, match="on_fit_start is None, which cannot be called"):
        check_callbacks([callback_with(on_fit_start=None)])


@pytest.mark.parametrize(
    ("kind", "name", "method", "message"),
    [
        (
            "callback",
            "on_train_batch_end",
            lambda self, t, m, o: None,
            "Mine.on_train_batch_end takes (t, m, o), but gets (trainer, pl_module, outputs, batch, batch_idx). "
            "Give it these arguments, or fewer of them under these names.",
        ),
        (
            "module",
            "on_train_start",
            lambda self, trainer: None,
            "Net.on_train_start takes (trainer), but gets (). Let it take none.",
        ),
        (
            "module",
            "training_step",
            lambda self, batch, batch_idx, optimizer_idx: None,
            "Net.training_step takes (batch, batch_idx, optimizer_idx), but gets (batch, batch_idx). "
            "Give it these arguments, or fewer of them under these names.",
        ),
        (
            "module",
            "optimizer_step",
            lambda self, epoch, optimizer: None,
            "Net.optimizer_step takes (epoch, optimizer), but gets (epoch, batch_idx, optimizer, optimizer_closure). "
            "Give it these arguments.",
        ),
    ],
)
def test_a_signature_that_fits_no_generation(kind: str, name: str, method: Callable[..., Any], message: str) -> None:
    with pytest.raises(MisconfigurationException) as raised:
        check_either(kind, **{name: method})
    assert str(raised.value) == message


@pytest.mark.parametrize(
    "method",
    [
        lambda self, epoch, batch_idx, optimizer, optimizer_closure: None,
        lambda self, epoch, batch_idx, optimizer, optimizer_closure=None: None,
        lambda self, *args, **kwargs: None,
    ],
)
def test_optimizer_step_as_people_write_it(method: Callable[..., Any]) -> None:
    module = module_with(optimizer_step=method)
    check_module(module)
    assert overrides(module, "optimizer_step")


def test_methods_of_the_first_generation_of_modules_say_what_replaces_them() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        check_module(module_with(validation_epoch_end=nothing))
    assert str(raised.value) == (
        "Net.validation_epoch_end is never called: it was a method of 1.x. Instead, "
        "collect what it needs in validation_step and use it in on_validation_epoch_end."
    )


def test_an_older_hook_is_deprecated_at_the_line_that_gave_it() -> None:
    with pytest.warns(DeprecationWarning, match="a hook of") as caught:
        check_callbacks([callback_with(on_pretrain_routine_end=nothing)])
    assert [str(w.message) for w in caught] == [
        "Mine.on_pretrain_routine_end is a hook of 1.7 and before; use on_fit_start instead."
    ]
    assert caught[0].filename == __file__


def test_an_older_signature_is_deprecated() -> None:
    with pytest.warns(DeprecationWarning, match="the signature of") as caught:
        check_callbacks([callback_with(on_train_epoch_end=lambda self, trainer, pl_module, outputs: None)])
    assert [str(w.message) for w in caught] == [
        "Mine.on_train_epoch_end takes (trainer, pl_module, outputs), the signature of 1.0-1.2; "
        "use on_train_epoch_end without outputs instead."
    ]


def test_todays_callbacks_pass_without_a_word() -> None:
    class Everything(Callback):
        """Overrides each hook by what it was."""

    for name in [n for n in vars(Callback) if n.startswith("on_") or n in ("setup", "teardown")]:
        method = vars(Callback)[name]
        setattr(Everything, name, lambda self, *args, _method=method: _method(self, *args))
    check_callbacks([Everything(), Callback(), LambdaCallback(on_fit_start=lambda trainer, pl_module: None)])
    assert all(overrides(Everything(), name) for name in ("setup", "on_test_end"))


class Counter(Callback):
    def __init__(self, what: str = "batches") -> None:
        self.what = what

    def state_dict(self) -> dict[str, Any]:
        return {"what": self.what}


class KeyedCounter(Counter):
    @property
    def state_key(self) -> str:
        return self._generate_state_key(what=self.what)


def test_two_stateful_callbacks_with_one_key_are_an_error_that_names_both_ways_out() -> None:
    with pytest.raises(MisconfigurationException, match=r"under the key 'Counter'.*`name` of one.*_generate_state_key"):
        check_callbacks([Counter("batches"), Counter("epochs")])


def test_both_ways_out_work() -> None:
    named = Counter()
    named.name = "second"
    check_callbacks([Counter(), named])
    check_callbacks([KeyedCounter("batches"), KeyedCounter("epochs")])
    assert named.state_key == "Counter{'name': 'second'}"
    assert KeyedCounter().state_key == "KeyedCounter{'what': 'batches'}"


def test_the_same_stateful_callback_twice_is_an_error() -> None:
    counter = Counter()
    with pytest.raises(MisconfigurationException, match="under the key 'Counter'"):
        check_callbacks([counter, counter])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "members",
    [
        {"load_state_dict": lambda self, state_dict: None},
        {"on_save_checkpoint": lambda self, trainer, pl_module: {}},
        {"on_load_checkpoint": lambda self, trainer, pl_module, callback_state: None},
        {"on_load_checkpoint": lambda self, state: None},
    ],
)
def test_what_makes_a_callback_stateful(members: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match="under the key 'Mine'"):
        check_callbacks([callback_with(**members), callback_with(**members)])


class Averages(Callback):
    def conflict_with(self, other: Callback) -> str | None:
        return "both replace the weights; keep one of them." if isinstance(other, Averages | Prunes) else None


class Prunes(Callback): ...


@pytest.mark.parametrize("callbacks", [[Averages(), Prunes()], [Prunes(), Averages()]])
def test_callbacks_that_cannot_work_beside_each_other_are_refused_with_the_reason(callbacks: list[Callback]) -> None:
    message = "Averages and Prunes cannot work in one trainer: both replace the weights; keep one of them."
    with pytest.raises(MisconfigurationException, match=message):
        check_callbacks(callbacks)
    with pytest.raises(MisconfigurationException, match=message):
        check_callbacks(callbacks, known=callbacks)  # the others may be new
    check_callbacks([Averages(), Callback()])


def test_callbacks_without_state_may_share_a_key() -> None:
    members = {"on_save_checkpoint": lambda self, trainer, pl_module, checkpoint: None, "on_fit_start": nothing}
    callbacks = [callback_with(**members), callback_with(**members)]
    check_callbacks(callbacks)
    assert callbacks[0].state_key == callbacks[1].state_key


def test_overrides_sees_classes_mixins_and_instances() -> None:
    class Mixin:
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None: ...

    class Mixed(Mixin, Callback): ...

    patched = Callback()
    patched.on_fit_start = nothing  # type: ignore[method-assign]
    assert not overrides(Callback(), "on_fit_start")
    assert overrides(patched, "on_fit_start")
    assert overrides(Mixed(), "on_fit_end")
    assert not overrides(Mixed(), "on_epoch_end")


def test_attributes_of_a_class_may_have_no_truth_value() -> None:
    check_module(module_with(example=torch.ones(2)))
