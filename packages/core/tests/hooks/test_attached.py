"""The trainer's list of callbacks keeps its order and tells of each change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from leyden.callback import Callback, Checkpoint
from leyden.errors import MisconfigurationException
from leyden.hooks.attached import AttachedCallbacks, CallbackList, as_list
from leyden.hooks.ordering import Placed


class A(Callback): ...


class B(Callback): ...


def attached(*callbacks: Callback) -> tuple[AttachedCallbacks, list[int]]:
    changes: list[int] = []
    made = AttachedCallbacks([Placed(callback) for callback in callbacks], lambda: changes.append(len(made.list)))
    return made, changes


def names(made: AttachedCallbacks) -> list[str]:
    return [type(callback).__name__ for callback in made.list]


def test_the_list_is_in_the_order_of_calls() -> None:
    made, changes = attached(Checkpoint(), A())
    assert (names(made), changes) == (["A", "Checkpoint"], [])
    assert [type(o.callback).__name__ for o in made.ordered] == ["A", "Checkpoint"]


def change(how: str) -> Callable[[list[Callback]], Any]:
    def add_in_place(callbacks: list[Callback]) -> None:
        callbacks += [B()]

    def set_item(callbacks: list[Callback]) -> None:
        callbacks[0] = B()

    def delete_item(callbacks: list[Callback]) -> None:
        del callbacks[0]

    return {
        "append": lambda callbacks: callbacks.append(B()),
        "extend": lambda callbacks: callbacks.extend([B()]),
        "insert": lambda callbacks: callbacks.insert(0, B()),
        "remove": lambda callbacks: callbacks.remove(callbacks[0]),
        "pop": lambda callbacks: callbacks.pop(),
        "clear": lambda callbacks: callbacks.clear(),
        "sort": lambda callbacks: callbacks.sort(key=lambda c: type(c).__name__),
        "reverse": lambda callbacks: callbacks.reverse(),
        "+=": add_in_place,
        "[0] =": set_item,
        "del": delete_item,
    }[how]


@pytest.mark.parametrize(
    ("how", "after"),
    [
        ("append", ["A", "B", "Checkpoint"]),
        ("extend", ["A", "B", "Checkpoint"]),
        ("insert", ["B", "A", "Checkpoint"]),
        ("remove", ["Checkpoint"]),
        ("pop", ["A"]),
        ("clear", []),
        ("sort", ["A", "Checkpoint"]),
        ("reverse", ["A", "Checkpoint"]),
        ("+=", ["A", "B", "Checkpoint"]),
        ("[0] =", ["B", "Checkpoint"]),
        ("del", ["Checkpoint"]),
    ],
)
def test_every_change_of_the_list_is_put_in_order_and_told(how: str, after: list[str]) -> None:
    made, changes = attached(A(), Checkpoint())
    held = made.list
    change(how)(held)
    assert (names(made), changes) == (after, [len(after)])
    assert [o.callback for o in made.ordered] == list(made.list)
    assert held is made.list


class Misspelt(Callback):
    def on_fit_starts(self) -> None: ...


class Before(Callback):
    runs_before = ("After",)


class After(Callback):
    runs_before = ("Before",)


class Stateful(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"n": 1}


def assign_nonsense(callbacks: list[Any]) -> None:
    callbacks[:] = [A(), 3]


def sort_by_what_is_not_there(callbacks: list[Any]) -> None:
    callbacks.sort(key=lambda callback: callback.no_such_attribute)


IMPOSSIBLE: list[tuple[str, Callable[[list[Any]], Any], type[Exception]]] = [
    ("a class", lambda callbacks: callbacks.append(B), MisconfigurationException),
    ("a misspelt hook", lambda callbacks: callbacks.insert(0, Misspelt()), MisconfigurationException),
    ("a cycle", lambda callbacks: callbacks.extend([Before(), After()]), MisconfigurationException),
    ("a second state", lambda callbacks: callbacks.append(Stateful()), MisconfigurationException),
    ("nonsense for all", assign_nonsense, MisconfigurationException),
    ("what is not in it", lambda callbacks: callbacks.remove(B()), ValueError),
    ("beyond its end", lambda callbacks: callbacks.pop(9), IndexError),
    ("a key that fails", sort_by_what_is_not_there, AttributeError),
]


@pytest.mark.parametrize(("change", "error"), [row[1:] for row in IMPOSSIBLE], ids=[row[0] for row in IMPOSSIBLE])
def test_a_change_that_cannot_work_is_undone(change: Callable[[list[Any]], Any], error: type[Exception]) -> None:
    made, changes = attached(A(), Stateful())
    before, ordered = list(made.list), made.ordered
    with pytest.raises(error):
        change(made.list)
    assert (list(made.list), made.ordered, changes) == (before, ordered, [])
    made.list.append(B())
    assert names(made) == ["A", "Stateful", "B"]


def test_one_list_stays_the_trainers_whatever_comes_and_goes() -> None:
    made, changes = attached(A())
    held = made.list
    made.take_from_module([B()])
    made.take_from_module([])
    held.append(Stateful())
    assert (names(made), held is made.list, changes) == (["A", "Stateful"], True, [2])


def test_each_callback_is_warned_of_once_however_often_the_list_changes() -> None:
    class Older(Callback):
        def on_epoch_start(self) -> None: ...

    with pytest.warns(DeprecationWarning, match="on_epoch_start") as warned:
        made, _ = attached(Older())
    made.list.append(A())
    made.take_from_module([B()])
    made.list.reverse()
    assert len(warned) == 1
    with pytest.warns(DeprecationWarning, match="on_epoch_start"):
        made.list.append(Older())


def test_the_modules_replace_the_users_of_their_type_and_go_with_the_module() -> None:
    users_a, modules_a = A(), A()
    made, _ = attached(users_a, Checkpoint())
    made.take_from_module([modules_a, B()])
    assert names(made) == ["A", "B", "Checkpoint"]
    assert made.list[0] is modules_a
    assert [o.reason for o in made.ordered][:2] == ["from configure_callbacks of the module"] * 2
    made.take_from_module([])
    assert names(made) == ["A", "Checkpoint"]
    assert made.list[0] is users_a


def test_a_copy_of_the_list_belongs_to_no_trainer() -> None:
    made, changes = attached(A())
    copied = copy.deepcopy(made.list)
    copied.append(B())
    assert (type(copied), len(made.list), changes) == (list, 1, [])
    assert isinstance(made.list, CallbackList)


def test_the_user_is_told_once_which_of_his_callbacks_the_module_replaces(caplog: pytest.LogCaptureFixture) -> None:
    users, modules = A(), A()
    made, _ = attached(users)
    with caplog.at_level("INFO", "leyden"):
        made.take_from_module([modules])
        made.take_from_module([modules])
    assert [record.getMessage() for record in caplog.records] == [
        "The A of configure_callbacks replaces the one in Trainer(callbacks=...)."
    ]


def test_what_the_user_adds_beside_the_modules_stays_visible() -> None:
    made, _ = attached()
    made.take_from_module([A()])
    users = A()
    made.list.append(users)
    assert (names(made), made.list[0] is users) == (["A", "A"], True)


def test_the_users_come_back_in_their_places() -> None:
    made, _ = attached(A(), B())
    made.take_from_module([A()])
    assert names(made) == ["B", "A"]
    made.take_from_module([])
    assert names(made) == ["A", "B"]


def test_the_users_own_instance_may_come_from_the_module_too(caplog: pytest.LogCaptureFixture) -> None:
    users = A()
    made, _ = attached(users)
    with caplog.at_level("INFO", "leyden"):
        made.take_from_module([users])
    assert (list(made.list), caplog.records) == ([users], [])


def test_what_the_user_takes_out_does_not_come_back_with_another_module() -> None:
    made, _ = attached(A(), B())
    made.take_from_module([A()])
    made.list.clear()
    made.take_from_module([])
    assert names(made) == []


def test_what_the_module_brings_is_checked_and_a_mistake_there_changes_nothing() -> None:
    made, _ = attached(A())
    with pytest.raises(MisconfigurationException, match="what configure_callbacks returned holds the class B"):
        made.take_from_module([B])  # type: ignore[list-item]
    assert (names(made), made.ordered[0].reason) == (["A"], "given by the user")
    made.take_from_module([])
    assert names(made) == ["A"]


class Bar(Callback):
    role = "progress_bar"


class OtherBar(Callback):
    role = "progress_bar"


def discovered(callback: Callback) -> Placed:
    return Placed(callback, source="discovered", distribution="some-package 1.0")


def test_a_discovered_callback_gives_way_to_one_of_its_role_from_the_module() -> None:
    made, _ = attached(A())
    made.take_discovered([discovered(Bar()), discovered(Checkpoint())])
    assert names(made) == ["A", "Bar", "Checkpoint"]
    made.take_from_module([OtherBar()])
    assert names(made) == ["A", "OtherBar", "Checkpoint"]
    made.take_from_module([])
    assert names(made) == ["A", "Bar", "Checkpoint"]


@pytest.mark.parametrize("broken", [Misspelt(), Stateful(), Before()], ids=lambda callback: type(callback).__name__)
def test_a_discovered_callback_that_cannot_work_is_left_out(broken: Callback) -> None:
    made, _ = attached(Stateful(), After())
    ((placed, error),) = made.take_discovered([discovered(broken), discovered(Bar())])
    assert placed.callback is broken
    assert isinstance(error, MisconfigurationException)
    assert names(made) == ["Stateful", "After", "Bar"]


def test_callbacks_may_compare_in_ways_of_their_own() -> None:
    class Picky(Callback):
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("not to be compared")

        __hash__ = None  # type: ignore[assignment]

    made, _ = attached(Picky(), A())
    made.take_from_module([Picky(), B()])
    made.list.append(Stateful())
    assert names(made) == ["A", "Stateful", "Picky", "B"]


@pytest.mark.parametrize(
    ("given", "listed"), [(None, []), ("ab", ["ab"]), (A, [A]), (3, [3]), ((1, 2), [1, 2]), (iter([1]), [1])]
)
def test_one_several_or_none_as_a_list(given: Any, listed: list[Any]) -> None:
    assert as_list(given) == listed
