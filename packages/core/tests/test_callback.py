"""`Callback`: keys, names, logging, copies; `Checkpoint`; `LambdaCallback`."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from leyden.callback import Callback, Checkpoint, LambdaCallback, attach
from leyden.errors import MisconfigurationException
from leyden.hooks.contract import hooks_of_callbacks


class Journal:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log(self, *args: Any) -> None:
        self.calls.append(args)


class Trainer:
    def __init__(self) -> None:
        self.journal = Journal()


class Counter(Callback):
    def __init__(self, what: str = "batches") -> None:
        self.what = what

    @property
    def state_key(self) -> str:
        return self._generate_state_key(what=self.what)


class OwnState(Callback):
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": True}


class OwnSlots(Callback):
    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 3


class OwnReduce(Callback):
    def __reduce__(self) -> str | tuple[Any, ...]:
        return OwnReduce, ()


@dataclass(frozen=True)
class Frozen(Callback):
    every_n_steps: int = 1


@dataclass
class Unhashable(Callback):
    every_n_steps: int = 1


def test_every_hook_can_be_called_and_does_nothing() -> None:
    callback = Callback()
    for name in hooks_of_callbacks():
        arguments = {"state_dict": 0, "load_state_dict": 1}.get(name)
        method = getattr(callback, name)
        count = method.__code__.co_argcount - 1 if arguments is None else arguments
        assert method(*[None] * count) == ({} if name == "state_dict" else None)


def test_state_keys() -> None:
    assert Callback().state_key == "Callback"
    assert Counter().state_key == "Counter{'what': 'batches'}"
    named = Counter()
    named.name = "a"
    assert named.state_key == "Counter{'name': 'a', 'what': 'batches'}"

    class Inner(Callback): ...

    assert Inner().state_key == "test_state_keys.<locals>.Inner"


def test_a_name_that_is_no_string_is_a_matter_of_the_callbacks_own() -> None:
    class Named(Callback):
        def name(self) -> str:  # type: ignore[override]
            return "mine"

    assert Named().state_key.endswith("Named")


def test_defaults() -> None:
    callback = Callback()
    assert (callback.name, callback.runs_before, callback.runs_after) == (None, (), ())
    assert (callback.position, callback.role) == ("normal", None)
    assert callback.applies(None) is True  # type: ignore[arg-type]
    assert Checkpoint().position == "checkpoint"
    assert isinstance(Checkpoint(), Callback)


# -- logging ---------------------------------------------------------------------------------------------------------


def test_log_reaches_the_trainers_journal_with_every_option_in_its_place() -> None:
    callback, trainer = Callback(), Trainer()
    attach(callback, trainer)
    callback.log("a", 1)
    callback.log("b", 2, True, False, True, True, "sum", True, True, "group", False, 8, "metric", True)
    assert trainer.journal.calls == [
        ("a", 1, False, None, None, None, "mean", False, False, None, True, None, None, False),
        ("b", 2, True, False, True, True, "sum", True, True, "group", False, 8, "metric", True),
    ]


def test_log_takes_what_the_modules_log_takes() -> None:
    import inspect

    from leyden.module import LightningModule

    for name in ("log", "log_dict"):
        ours, theirs = (inspect.signature(getattr(cls, name)).parameters for cls in (Callback, LightningModule))
        assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


def test_log_dict_logs_each_value() -> None:
    callback, trainer = Callback(), Trainer()
    attach(callback, trainer)
    callback.log_dict({"a": 1, "b": 2}, prog_bar=True, batch_size=4, rank_zero_only=True)
    options = (True, None, None, None, "mean", False, False, None, True, 4, None, True)
    assert trainer.journal.calls == [("a", 1, *options), ("b", 2, *options)]


def test_log_without_a_trainer_warns_at_the_call() -> None:
    with pytest.warns(UserWarning, match=r"Counter\.log\('a'\) logs nothing: no trainer has this callback") as caught:
        Counter().log("a", 1)
    assert caught[0].filename == __file__


def test_log_after_the_trainer_is_gone_warns() -> None:
    callback = Callback()
    attach(callback, Trainer())
    with pytest.warns(UserWarning, match="no trainer has this callback"):
        callback.log("a", 1)


def test_what_cannot_be_referenced_weakly_is_held() -> None:
    class Slotted:
        __slots__ = ("journal",)

        def __init__(self) -> None:
            self.journal = Journal()

    trainer = Slotted()
    callback = Callback()
    attach(callback, trainer)
    callback.log("a", 1)
    assert trainer.journal.calls[0][:2] == ("a", 1)


# -- copies and pickles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Callback, Counter, OwnState, OwnSlots, OwnReduce, Frozen, Unhashable])
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_start_without_a_trainer(cls: type[Callback], how: Any) -> None:
    callback, trainer = cls(), Trainer()
    attach(callback, trainer)
    assert callback._trainer_ref is not None
    copied = how(callback)
    assert type(copied) is cls
    assert copied._trainer_ref is None
    rest = {name: value for name, value in vars(callback).items() if name != "_trainer_ref"}
    assert vars(copied) == rest | ({"kept": True} if cls is OwnState else {})
    assert getattr(copied, "size", 3) == 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(protocol: int) -> None:
    counter = Counter("epochs")
    attach(counter, Trainer())
    restored = pickle.loads(pickle.dumps(counter, protocol))
    assert (restored.what, restored._trainer_ref) == ("epochs", None)


# -- LambdaCallback --------------------------------------------------------------------------------------------------


def test_lambda_callback_takes_every_hook_also_of_older_generations() -> None:
    names = hooks_of_callbacks(older=True)
    callback = LambdaCallback(**{name: (lambda *args, _name=name: _name) for name in names})
    assert [getattr(callback, name)() for name in names] == list(names)
    assert "on_epoch_end" in names


def test_lambda_callback_leaves_out_none() -> None:
    callback = LambdaCallback(on_fit_start=None)
    assert vars(callback) == {}


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ({"on_fit_stat": print}, r"got 'on_fit_stat', which is no hook of callbacks\. Did you mean 'on_fit_start'\?"),
        ({"training_step": print}, r"got 'training_step', which is no hook of callbacks\."),
        ({"on_fit_start": 3}, r"got on_fit_start=3, which cannot be called\. Give a function\."),
    ],
)
def test_lambda_callback_refuses_what_is_no_hook(hooks: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        LambdaCallback(**hooks)
