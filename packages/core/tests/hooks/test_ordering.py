"""Callbacks run in the order they declare, else by position, source and the order given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.callback import Callback, Checkpoint
from leyden.errors import MisconfigurationException
from leyden.hooks.ordering import POSITIONS, SOURCES, Placed, late_callbacks, order_callbacks


class A(Callback): ...


class B(Callback): ...


class C(Callback): ...


class SubB(B): ...


class Monitor(Callback):
    position = "monitor"


class First(Callback):
    position = "first"


def made(cls: type[Callback], **attributes: Any) -> Callback:
    callback = cls()
    for name, value in attributes.items():
        setattr(callback, name, value)
    return callback


def order(*callbacks: Callback) -> list[str]:
    ordered = order_callbacks([Placed(callback) for callback in callbacks])
    return [callback.callback.name or type(callback.callback).__name__ for callback in ordered]


def reasons(*callbacks: Callback) -> dict[str, str]:
    return {type(o.callback).__name__: o.reason for o in order_callbacks([Placed(c) for c in callbacks])}


def test_the_order_given_holds_where_nothing_is_declared() -> None:
    assert order(B(), A(), C()) == ["B", "A", "C"]
    assert order() == []


def test_positions_come_before_the_order_given() -> None:
    assert order(Checkpoint(), Monitor(), A(), First()) == ["First", "A", "Monitor", "Checkpoint"]


def test_sources_come_after_positions() -> None:
    placed = [
        Placed(A(), "discovered", "leyden-callbacks-monitoring"),
        Placed(Checkpoint(), "user"),
        Placed(B(), "module"),
        Placed(C(), "user"),
    ]
    ordered = order_callbacks(placed)
    assert [(type(o.callback).__name__, o.reason) for o in ordered] == [
        ("C", "given by the user"),
        ("B", "from configure_callbacks of the module"),
        ("A", "attached by leyden-callbacks-monitoring"),
        ("Checkpoint", "given by the user; position 'checkpoint'"),
    ]


@pytest.mark.parametrize("target", ["A", A, ("A",), [A], {A}, "first of all"])
def test_runs_after_and_before_take_classes_names_and_names_of_callbacks(target: Any) -> None:
    a = made(A, name="first of all") if target == "first of all" else A()
    assert order(made(B, runs_after=target, name="b"), C(), a)[-1] == "b"
    assert order(C(), a, made(B, runs_before=target, name="b")) == ["C", "b", a.name or "A"]


@pytest.mark.parametrize("target", ["B", B])
def test_a_class_or_its_name_means_its_subclasses_too(target: Any) -> None:
    assert order(made(A, runs_after=target), SubB()) == ["SubB", "A"]


def test_absent_callbacks_are_ignored() -> None:
    assert order(made(A, runs_after=("D", C, "nobody")), made(B, runs_before="Nowhere")) == ["A", "B"]


def test_names_that_nobody_has_are_told_of_with_the_nearest() -> None:
    told = reasons(made(A, runs_before=("Nope", "SubBB"), runs_after=("C",)), made(SubB), made(C))
    assert "runs before 'Nope', which nobody here is called;" in told["A"]
    assert "runs before 'SubBB', which nobody here is called (Did you mean 'SubB'?)" in told["A"]
    assert "'C', which" not in told["A"]


def test_a_class_that_names_its_own_base_does_not_mean_its_siblings() -> None:
    class Last(Callback):
        runs_after = (Callback,)

    assert order(made(Last, name="1"), made(Last, name="2"), A()) == ["A", "1", "2"]


def test_two_of_a_class_are_ordered_by_name() -> None:
    assert order(made(A, name="1", runs_after="2"), made(A, name="2")) == ["2", "1"]


def test_a_declared_relation_wins_over_the_position_and_says_so() -> None:
    assert order(Checkpoint(), made(A, runs_after="Checkpoint"), B()) == ["B", "Checkpoint", "A"]
    assert reasons(Checkpoint(), made(A, runs_after="Checkpoint")) == {
        "Checkpoint": "given by the user; position 'checkpoint'; before A, which declares it "
        "(wins over the positions 'checkpoint' here and 'normal' there)",
        "A": "given by the user; runs after Checkpoint (wins over the positions 'normal' here and 'checkpoint' there)",
    }


def test_reasons_name_the_relations() -> None:
    assert reasons(B(), made(A, runs_before=B)) == {
        "A": "given by the user; runs before B",
        "B": "given by the user; after A, which declares it",
    }


def test_a_cycle_is_named() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        order(made(A, runs_before="B"), made(B, runs_before="C"), made(C, runs_before="A"), First())
    assert str(raised.value) == (
        "The callbacks cannot be ordered: A -> B -> C -> A is a cycle "
        "(A runs before B; B runs before C; C runs before A). "
        "Remove one of these declarations from runs_before / runs_after."
    )


def test_what_waits_for_a_cycle_is_not_named_as_part_of_it() -> None:
    with pytest.raises(MisconfigurationException, match=r"ordered: (A -> B -> A|B -> A -> B) is a cycle \("):
        order(made(C, runs_after="B"), made(A, runs_before="B"), made(B, runs_before="A"))


def test_an_unknown_position_is_an_error_with_the_nearest() -> None:
    with pytest.raises(MisconfigurationException, match=r"A\.position is 'monitors'.* Did you mean 'monitor'\?"):
        order(made(A, position="monitors"))


def test_a_target_that_is_neither_class_nor_name_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"B\.runs_after holds 3, which is neither"):
        order(made(B, runs_after=(3,)))


def test_late_are_monitors_checkpoints_and_what_runs_after_them() -> None:
    callbacks = [First(), A(), Monitor(), made(B, runs_after="Monitor"), made(C, runs_after="B"), Checkpoint()]
    assert late_callbacks(callbacks) == [False, False, True, True, True, True]


CLASSES = [type(f"C{i}", (Callback,), {}) for i in range(6)]


@given(
    positions=st.lists(st.sampled_from(POSITIONS), min_size=6, max_size=6),
    sources=st.lists(st.sampled_from(SOURCES), min_size=6, max_size=6),
    pairs=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=8),
)
def test_every_declared_relation_holds_and_the_rest_is_stable(
    positions: list[str], sources: list[str], pairs: set[tuple[int, int, bool]]
) -> None:
    callbacks = [cls() for cls in CLASSES]
    for callback, position in zip(callbacks, positions, strict=True):
        callback.position = position
    forward = {(i, j, by_first) for i, j, by_first in pairs if i < j}  # no cycle is possible among these
    for i, j, by_first in forward:
        if by_first:
            callbacks[i].runs_before = (*callbacks[i].runs_before, CLASSES[j])
        else:
            callbacks[j].runs_after = (*callbacks[j].runs_after, CLASSES[i].__name__)
    placed = [Placed(callback, source) for callback, source in zip(callbacks, sources, strict=True)]
    place = {id(o.callback): n for n, o in enumerate(order_callbacks(placed))}
    places = [place[id(callback)] for callback in callbacks]
    assert sorted(places) == list(range(6))
    assert all(places[i] < places[j] for i, j, _ in forward)
    if not forward:
        keys = [
            (POSITIONS.index(p), SOURCES.index(s), i) for i, (p, s) in enumerate(zip(positions, sources, strict=True))
        ]
        assert [places[key[-1]] for key in sorted(keys)] == list(range(6))
