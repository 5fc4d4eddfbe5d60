"""The plan calls those who override a hook, in order, with what their generation expects, and says who failed."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.callback import Callback, Checkpoint, LambdaCallback
from leyden.errors import MisconfigurationException
from leyden.hooks.contract import HOOKS
from leyden.hooks.plan import Plan, call_init_hooks
from leyden.module import LightningModule


class Journal:
    def __init__(self) -> None:
        self.hook = "before"


class Trainer:
    """As much of a trainer as the plan looks at."""

    def __init__(self) -> None:
        self.optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(2)]


def compiled(
    callbacks: list[Callback], module: LightningModule | None = None, trainer: Any = None, **options: Any
) -> tuple[Plan, Journal]:
    journal = Journal()
    plan = Plan(journal)
    plan.compile(trainer or Trainer(), module, callbacks, **options)
    return plan, journal


def run(call: Callable[..., None] | None, *args: Any) -> None:
    assert call is not None
    call(*args)


def lambdas(events: list[Any], who: str, *names: str, base: type[Callback] = Callback) -> Callback:
    """A callback with these hooks, each of which writes who it is and what it got."""

    def method(name: str) -> Callable[..., None]:
        return lambda self, *args: events.append((who, name, args[2:]))

    made: Callback = type(who.title(), (base,), {name: method(name) for name in names})()
    return made


def module_with(events: list[Any], *names: str) -> LightningModule:
    def method(name: str) -> Callable[..., None]:
        return lambda self, *args: events.append(("module", name, args))

    made: LightningModule = type("Net", (LightningModule,), {name: method(name) for name in names})()
    return made


CALLED_BY_ATTRIBUTE = [
    name for name, hook in HOOKS.items() if hook.callbacks and not hook.stands_at and not name.startswith("on_init_")
]


def test_there_is_an_attribute_for_every_hook_of_callbacks() -> None:
    plan, _ = compiled([Callback(), Checkpoint()], module_with([]))
    assert {name: getattr(plan, name) for name in CALLED_BY_ATTRIBUTE} == dict.fromkeys(CALLED_BY_ATTRIBUTE)
    assert plan.module_on_train_batch_start is None
    assert not hasattr(plan, "on_train_batch_ends")


@pytest.mark.parametrize("name", CALLED_BY_ATTRIBUTE)
def test_each_hook_is_called_on_callbacks_in_order_and_then_on_the_module(name: str) -> None:
    events: list[Any] = []
    hook = HOOKS[name]
    args = tuple(range(len(hook.arguments)))
    shared = hook.module and name != "on_train_batch_start"
    callbacks = [lambdas(events, "a", name), Callback(), lambdas(events, "b", name)]
    plan, _ = compiled(callbacks, module_with(events, *([name] if hook.module else [])))
    run(getattr(plan, name), *args)
    received = args[2:] if not hook.passes_caller else args
    assert events == [("a", name, received), ("b", name, received), *([("module", name, args)] if shared else [])]
    assert [entry.owner for entry in plan.entries(name)][:2] == [callbacks[0], callbacks[2]]


def test_trainer_and_module_come_first() -> None:
    seen: list[Any] = []
    module, trainer = module_with([]), Trainer()
    callback = LambdaCallback(on_before_backward=lambda *args: seen.extend(args))
    plan, _ = compiled([callback], module, trainer)
    run(plan.on_before_backward, "loss")
    assert seen == [trainer, module, "loss"]


def test_the_module_may_skip_the_epoch_and_stands_apart_for_it() -> None:
    events: list[Any] = []
    net = type("Net", (LightningModule,), {"on_train_batch_start": lambda self, batch, batch_idx: -1})()
    plan, _ = compiled([lambdas(events, "a", "on_train_batch_start")], net)
    run(plan.on_train_batch_start, "batch", 7)
    assert events == [("a", "on_train_batch_start", ("batch", 7))]
    assert plan.module_on_train_batch_start is not None
    assert plan.module_on_train_batch_start("batch", 7) == -1
    assert compiled([], net)[0].on_train_batch_start is None
    assert [entry.owner for entry in plan.entries("on_train_batch_start")][1:] == [net]


@pytest.mark.parametrize("stage", ["train", "validation", "test", "predict"])
def test_monitors_and_checkpoints_get_the_end_of_an_epoch_after_the_module(stage: str) -> None:
    events: list[Any] = []
    name = f"on_{stage}_epoch_end"

    class Monitor(Callback):
        position = "monitor"

    callbacks = [
        lambdas(events, "a", name),
        lambdas(events, "m", name, base=Monitor),
        lambdas(events, "c", name, base=Checkpoint),
    ]
    after = lambdas(events, "after", name)
    after.runs_after = ("C",)
    plan, _ = compiled([*callbacks, after], module_with(events, name))
    run(getattr(plan, name))
    assert [event[0] for event in events] == ["a", "module", "m", "c", "after"]


def test_starts_are_not_reordered() -> None:
    events: list[Any] = []
    plan, _ = compiled(
        [lambdas(events, "c", "on_train_epoch_start", base=Checkpoint)], module_with(events, "on_train_epoch_start")
    )
    run(plan.on_train_epoch_start)
    assert [event[0] for event in events] == ["c", "module"]


def test_compiling_again_is_seen_by_those_who_hold_the_plan() -> None:
    events: list[Any] = []
    plan, _ = compiled([lambdas(events, "a", "on_fit_start", "on_fit_end")])
    plan.compile(Trainer(), None, [lambdas(events, "b", "on_fit_start")])
    run(plan.on_fit_start)
    assert events == [("b", "on_fit_start", ())]
    assert plan.on_fit_end is None


def test_owners_are_the_callbacks_in_order_and_the_module() -> None:
    callbacks: list[Callback] = [Callback(), Checkpoint()]
    module = module_with([])
    assert compiled(callbacks, module)[0].owners() == (*callbacks, module)
    assert compiled(callbacks)[0].owners() == tuple(callbacks)


# -- the hook that is running ----------------------------------------------------------------------------------------


def test_the_journal_knows_the_hook_while_it_runs_and_the_one_around_it_afterwards() -> None:
    seen: list[str] = []
    journal: Journal
    callback = LambdaCallback(
        on_after_backward=lambda trainer, pl_module: seen.append(journal.hook),
        teardown=lambda trainer, pl_module, stage: seen.append(journal.hook),
        on_epoch_start=lambda trainer, pl_module: seen.append(journal.hook),
        on_train_epoch_start=lambda trainer, pl_module: seen.append(journal.hook),
    )
    net = type("Net", (LightningModule,), {"on_train_batch_start": lambda self, b, i: seen.append(journal.hook)})()
    plan, journal = compiled([callback], net)
    journal.hook = "training_step"
    run(plan.on_after_backward)
    plan.entries("teardown")[0].call("fit")
    run(plan.on_train_epoch_start)
    run(plan.module_on_train_batch_start, 0, 0)
    assert seen == ["on_after_backward", "teardown", "on_epoch_start", "on_train_epoch_start", "on_train_batch_start"]
    assert journal.hook == "training_step"


# -- exceptions ------------------------------------------------------------------------------------------------------


class Failing(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        raise ValueError("by intent")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        raise KeyboardInterrupt


def test_an_exception_carries_a_note_that_names_callback_and_hook() -> None:
    plan, journal = compiled([Callback(), Failing()])
    with pytest.raises(ValueError, match="by intent") as raised:
        run(plan.on_fit_start)
    assert raised.value.__notes__ == ["Raised by the callback Failing in on_fit_start."]
    assert journal.hook == "before"
    with pytest.raises(KeyboardInterrupt) as interrupted:
        plan.entries("teardown")[0].call("fit")
    assert interrupted.value.__notes__ == ["Raised by the callback Failing in teardown."]
    assert journal.hook == "before"


def test_the_note_tells_two_of_a_class_apart() -> None:
    named = Failing()
    named.name = "second"
    plan, _ = compiled([named])
    with pytest.raises(ValueError, match="by intent") as raised:
        run(plan.on_fit_start)
    assert raised.value.__notes__ == ["Raised by the callback Failing (Failing{'name': 'second'}) in on_fit_start."]


def test_the_note_is_written_even_where_the_state_key_fails() -> None:
    class Keyless(Failing):
        @property
        def state_key(self) -> str:
            raise RuntimeError("no key")

    plan, _ = compiled([Keyless()])
    with pytest.raises(ValueError, match="by intent") as raised:
        run(plan.on_fit_start)
    assert raised.value.__notes__[0].endswith("Keyless in on_fit_start.")


def test_an_exception_of_the_module_needs_no_note() -> None:
    def fail(self: Any) -> None:
        raise ValueError("of the module")

    plan, _ = compiled([Callback()], type("Net", (LightningModule,), {"on_fit_start": fail})())
    with pytest.raises(ValueError, match="of the module") as raised:
        run(plan.on_fit_start)
    assert not hasattr(raised.value, "__notes__")


def test_those_after_the_failing_one_are_not_called() -> None:
    events: list[Any] = []
    plan, _ = compiled([Failing(), lambdas(events, "b", "on_fit_start")])
    with pytest.raises(ValueError, match="by intent"):
        run(plan.on_fit_start)
    assert events == []


def test_a_signature_that_fits_nothing_is_an_error_when_compiled() -> None:
    with pytest.raises(MisconfigurationException, match=r"LambdaCallback\.on_fit_start takes \(x\), but gets"):
        compiled([LambdaCallback(on_fit_start=lambda x: None)])
    net = type("Net", (LightningModule,), {"on_fit_start": lambda self, x: None})()
    with pytest.raises(MisconfigurationException, match=r"Net\.on_fit_start takes \(x\), but gets \(\)"):
        compiled([], net)


# -- entries ---------------------------------------------------------------------------------------------------------


def test_entries_give_one_call_per_owner_with_its_value() -> None:
    class Kept(Callback):
        def __init__(self, value: int) -> None:
            self.value = value

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.value = state_dict["value"]

    callbacks: list[Callback] = [Kept(1), Callback(), Kept(2)]
    plan, _ = compiled(callbacks)
    assert [entry.call() for entry in plan.entries("state_dict")] == [{"value": 1}, {"value": 2}]
    plan.entries("load_state_dict")[1].call({"value": 5})
    assert callbacks[2].state_dict() == {"value": 5}
    assert plan.entries("on_save_checkpoint") == ()


def test_entries_of_teardown_hold_the_module() -> None:
    events: list[Any] = []
    module = module_with(events, "teardown")
    plan, _ = compiled([lambdas(events, "a", "teardown")], module)
    for entry in plan.entries("teardown"):
        entry.call("fit")
    assert events == [("a", "teardown", ("fit",)), ("module", "teardown", ("fit",))]


# -- wrapping --------------------------------------------------------------------------------------------------------


def test_wrap_gets_owner_hook_and_call_when_compiled_and_its_call_is_made() -> None:
    events: list[Any] = []
    wrapped: list[tuple[object, str]] = []

    def wrap(owner: object, hook: str, call: Callable[..., Any]) -> Callable[..., Any]:
        wrapped.append((owner, hook))

        def timed(*args: Any) -> Any:
            events.append("before")
            return call(*args)

        return timed

    callback, module = lambdas(events, "a", "on_before_backward"), module_with(events, "on_before_backward")
    plan, _ = compiled([callback], module, wrap=wrap)
    assert wrapped == [(callback, "on_before_backward"), (module, "on_before_backward")]
    run(plan.on_before_backward, 1)
    assert events == [
        *("before", ("a", "on_before_backward", (1,))),
        *("before", ("module", "on_before_backward", (1,))),
    ]


# -- older generations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["train", "validation", "test"])
@pytest.mark.parametrize("with_todays", [True, False])
def test_hooks_around_every_epoch_stand_beside_the_stages_own(stage: str, with_todays: bool) -> None:
    events: list[Any] = []
    own = [f"on_{stage}_epoch_start", f"on_{stage}_epoch_end"] if with_todays else []
    names = ["on_epoch_start", *own, "on_epoch_end"]
    plan, _ = compiled([lambdas(events, "a", *names)], module_with(events, *names))
    run(getattr(plan, f"on_{stage}_epoch_start"))
    run(getattr(plan, f"on_{stage}_epoch_end"))
    assert events == [(who, name, ()) for name in names for who in ("a", "module")]


def test_hooks_around_every_epoch_do_not_touch_prediction() -> None:
    plan, _ = compiled([lambdas([], "a", "on_epoch_start", "on_epoch_end")])
    assert (plan.on_predict_epoch_start, plan.on_predict_epoch_end) == (None, None)


def test_hooks_around_every_batch_take_nothing() -> None:
    events: list[Any] = []
    plan, _ = compiled([lambdas(events, "a", "on_batch_start", "on_batch_end", "on_train_batch_end")])
    run(plan.on_train_batch_start, "batch", 0)
    run(plan.on_train_batch_end, "outputs", "batch", 0)
    assert events == [
        ("a", "on_batch_start", ()),
        ("a", "on_train_batch_end", ("outputs", "batch", 0)),
        ("a", "on_batch_end", ()),
    ]
    assert plan.on_validation_batch_start is None


def test_an_error_in_an_older_hook_names_that_hook() -> None:
    def fail(trainer: Any, pl_module: Any) -> None:
        raise ValueError("old")

    plan, _ = compiled([LambdaCallback(on_epoch_end=fail)])
    with pytest.raises(ValueError, match="old") as raised:
        run(plan.on_train_epoch_end)
    assert raised.value.__notes__ == ["Raised by the callback LambdaCallback in on_epoch_end."]


def test_outputs_of_an_epoch_are_wanted_only_where_somebody_takes_them() -> None:
    seen: list[Any] = []
    older = LambdaCallback(
        on_train_epoch_end=lambda trainer, pl_module, outputs: seen.append(outputs),
        on_predict_epoch_end=lambda trainer, pl_module, results: seen.append(results),
    )
    plan, _ = compiled([older])
    assert (plan.wants_train_outputs, plan.wants_predict_outputs) == (True, True)
    plan.train_outputs = [[{"loss": 1}, {"loss": 2}]]
    plan.predict_outputs = [["a"], ["b"]]
    run(plan.on_train_epoch_end)
    run(plan.on_predict_epoch_end)
    assert seen == [[[{"loss": 1}, {"loss": 2}]], [["a"], ["b"]]]
    today, _ = compiled([LambdaCallback(on_train_epoch_end=lambda trainer, pl_module: None)])
    assert (today.wants_train_outputs, today.wants_predict_outputs) == (False, False)


def test_the_module_may_take_the_outputs_of_an_epoch_too() -> None:
    seen: list[Any] = []
    net = type("Net", (LightningModule,), {"on_train_epoch_end": lambda self, outputs: seen.append(outputs)})()
    plan, _ = compiled([], net)
    plan.train_outputs = [[1]]
    run(plan.on_train_epoch_end)
    assert (plan.wants_train_outputs, seen) == (True, [[[1]]])


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_index_of_the_optimizer(wrapped: bool) -> None:
    seen: list[int] = []
    trainer = Trainer()
    callback = LambdaCallback(
        on_before_optimizer_step=lambda trainer, pl_module, optimizer, opt_idx: seen.append(opt_idx)
    )
    plan, _ = compiled([callback], trainer=trainer)
    for optimizer in reversed(trainer.optimizers):
        run(plan.on_before_optimizer_step, SimpleNamespace(optimizer=optimizer) if wrapped else optimizer)
    assert seen == [1, 0]


def test_states_go_to_those_who_want_their_own() -> None:
    seen: list[Any] = []
    callbacks: list[Callback] = [
        LambdaCallback(on_load_checkpoint=lambda state: seen.append(("1.0", state))),
        LambdaCallback(
            on_load_checkpoint=lambda trainer, pl_module, callback_state: seen.append(("1.3", callback_state))
        ),
        LambdaCallback(on_load_checkpoint=lambda trainer, pl_module, checkpoint: seen.append(("2.0", checkpoint))),
    ]
    plan, _ = compiled(callbacks)
    own, whole = plan.entries("on_load_state"), plan.entries("on_load_checkpoint")
    assert [entry.owner for entry in own] == callbacks[:2]
    assert [entry.owner for entry in whole] == callbacks[2:]
    for entry in own:
        entry.call({"mine": 1})
    whole[0].call({"all": 1})
    assert seen == [("1.0", {"mine": 1}), ("1.3", {"mine": 1}), ("2.0", {"all": 1})]


def test_what_on_save_checkpoint_returns_comes_back() -> None:
    callbacks: list[Callback] = [
        LambdaCallback(on_save_checkpoint=lambda trainer, pl_module: {"of": "1.0"}),
        LambdaCallback(on_save_checkpoint=lambda trainer, pl_module, checkpoint: checkpoint | {"of": "1.2"}),
    ]
    plan, _ = compiled(callbacks)
    assert [entry.call({"epoch": 3}) for entry in plan.entries("on_save_checkpoint")] == [
        {"of": "1.0"},
        {"epoch": 3, "of": "1.2"},
    ]


@pytest.mark.parametrize("given", [(), (2,)])
@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (lambda trainer, pl_module, batch, batch_idx, dataloader_idx=0: dataloader_idx, True),
        (lambda trainer, pl_module, batch, batch_idx, dataloader_idx: dataloader_idx, True),
        (lambda dataloader_idx: dataloader_idx, True),
        (lambda t, m, b, *, dataloader_idx, **rest: dataloader_idx, True),
        (lambda t, m, b, i: None, False),
        (lambda trainer: None, False),
    ],
)
def test_the_dataloader_index_is_given_to_those_who_take_it(
    method: Callable[..., Any], kept: bool, given: tuple[int, ...]
) -> None:
    plan, _ = compiled([LambdaCallback(on_validation_batch_start=method)])
    value = plan.entries("on_validation_batch_start")[0].call("batch", 5, *given)
    assert value == ((given or (0,))[0] if kept else None)


def test_variable_arguments_get_what_the_loop_passes() -> None:
    plan, _ = compiled([LambdaCallback(on_validation_batch_start=lambda *args: len(args))])
    entry = plan.entries("on_validation_batch_start")[0]
    assert (entry.call("batch", 5), entry.call("batch", 5, 1)) == (4, 5)


@pytest.mark.parametrize(("when", "name"), [("start", "on_init_start"), ("end", "on_init_end")])
def test_hooks_of_the_trainers_making(when: str, name: str) -> None:
    seen: list[Any] = []
    call_init_hooks([Callback(), LambdaCallback(**{name: seen.append})], name, "the trainer")
    assert seen == ["the trainer"]
    with pytest.raises(MisconfigurationException, match=rf"{name} takes \(a, b\), but gets \(trainer\)"):
        call_init_hooks([LambdaCallback(**{name: lambda a, b: None})], name, "the trainer")

    def fail(trainer: Any) -> None:
        raise ValueError(when)

    with pytest.raises(ValueError, match=when) as raised:
        call_init_hooks([LambdaCallback(**{name: fail})], name, "the trainer")
    assert raised.value.__notes__ == [f"Raised by the callback LambdaCallback in {name}."]


# -- calls that wait for the end of a hook ---------------------------------------------------------------------------


def test_what_waits_for_the_end_of_a_hook_is_called_within_it_and_after_everyone() -> None:
    events: list[str] = []

    class First(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            plan.when_done(lambda: late("a"))
            plan.when_done(lambda: late("b"))

    class Last(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            events.append("last")

    def late(name: str) -> None:
        events.append(f"{name} in {journal.hook}")
        journal.hook = "elsewhere"
        if name == "b":
            plan.when_done(lambda: events.append(f"c in {journal.hook}"))

    plan, journal = compiled([First(), Last()])
    assert plan.on_train_epoch_end is not None
    plan.on_train_epoch_end()
    assert events == ["last", "a in on_train_epoch_end", "b in on_train_epoch_end", "c in elsewhere"]
    assert journal.hook == "before"
    plan.when_done(lambda: events.append("at once"))
    assert events[-1] == "at once"


@pytest.mark.parametrize("late_fails", [False, True])
def test_what_waits_is_forgotten_where_somebody_raises(late_fails: bool) -> None:
    events: list[str] = []

    def fail() -> None:
        raise ValueError("no")

    class First(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                plan.when_done(fail if late_fails else lambda: events.append("late"))
                plan.when_done(lambda: events.append("later"))

    class Last(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0 and not late_fails:
                fail()

    plan, journal = compiled([First(), Last()])
    assert plan.on_train_batch_end is not None
    with pytest.raises(ValueError, match="no"):
        plan.on_train_batch_end({}, None, 0)
    assert journal.hook == "before"
    plan.on_train_batch_end({}, None, 1)
    assert events == []


# -- what it costs ---------------------------------------------------------------------------------------------------


def python_calls(call: Callable[..., Any], *args: Any) -> int:
    """Count the Python functions that run, without this one's own."""
    count = 0

    def trace(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(trace)
    try:
        call(*args)
    finally:
        sys.setprofile(None)
    return count


def test_a_callback_of_today_costs_its_own_call_and_no_other() -> None:
    class Counting(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None: ...

    callbacks: list[Callback] = [*(Counting() for _ in range(10)), *(Callback() for _ in range(100))]
    plan, _ = compiled(callbacks)
    assert plan.on_train_batch_end is not None
    assert python_calls(plan.on_train_batch_end, {}, None, 0) == 1 + 10


def test_a_kept_callback_does_not_keep_its_trainer() -> None:
    callback, trainer = Callback(), Trainer()
    gone = weakref.ref(trainer)
    plan, _ = compiled([callback], trainer=trainer)
    del plan, trainer
    gc.collect()
    assert gone() is None
    assert callback.state_key == "Callback"
