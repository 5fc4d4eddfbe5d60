"""The trainer's list of callbacks keeps its order and tells of each change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from leyden.callback import Callback, Checkpoint
from leyden.errors import MisconfigurationException
from leyden.hooks.attached import AttachedCallbacks, CallbackList
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


def test_a_change_that_cannot_work_is_an_error() -> None:
    made, changes = attached(A())
    with pytest.raises(MisconfigurationException, match=r"holds the class B\. Give an instance"):
        made.list.append(B)  # type: ignore[arg-type]
    assert changes == []


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
