"""The arguments a step is called with, and the context it runs in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from leyden import MisconfigurationException
from leyden.loops.steps import step_arguments, under_context


class Module:
    """Steps of every signature; each returns what it was given."""

    def batch_alone(self, batch: Any) -> Any:
        return batch

    def usual(self, batch: Any, batch_idx: int) -> Any:
        return batch, batch_idx

    def other_names(self, data: Any, i: int) -> Any:
        return data, i

    def optional(self, batch: Any, batch_idx: int, dataloader_idx: int = 7) -> Any:
        return batch, batch_idx, dataloader_idx

    def three(self, batch: Any, batch_idx: int, dataloader_idx: int) -> Any:
        return batch, batch_idx, dataloader_idx

    def loader_only(self, batch: Any, dataloader_idx: int) -> Any:
        return batch, dataloader_idx

    def loader_only_optional(self, batch: Any, dataloader_idx: int = 7) -> Any:
        return batch, dataloader_idx

    def star(self, *args: Any) -> Any:
        return args

    def batch_and_star(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        return batch, *args

    def extra_option(self, batch: Any, batch_idx: int, *, option: int = 1) -> Any:
        return batch, batch_idx

    def nothing(self) -> None: ...

    def keyword_only(self, *, batch: Any) -> None: ...

    def four(self, batch: Any, batch_idx: int, dataloader_idx: int, hiddens: Any) -> None: ...

    def three_of_other_names(self, batch: Any, batch_idx: int, optimizer_idx: int) -> None: ...

    def iterator(self, dataloader_iter: Any) -> None: ...


ONE_LOADER = {
    "batch_alone": "b",
    "usual": ("b", 1),
    "other_names": ("b", 1),
    "optional": ("b", 1, 7),
    "three": ("b", 1, 0),
    "loader_only": ("b", 0),
    "loader_only_optional": ("b", 0),
    "star": ("b", 1),
    "batch_and_star": ("b", 1),
    "extra_option": ("b", 1),
}
SEVERAL_LOADERS = {
    "optional": ("b", 1, 2),
    "three": ("b", 1, 2),
    "loader_only": ("b", 2),
    "loader_only_optional": ("b", 2),
    "star": ("b", 1, 2),
    "batch_and_star": ("b", 1, 2),
}


def fitted(name: str, *, several: bool) -> Callable[..., Any]:
    module = Module()
    return step_arguments(getattr(module, name), module, name, several_loaders=several)


@pytest.mark.parametrize("name", ONE_LOADER)
def test_with_one_loader_a_step_gets_what_it_takes(name: str) -> None:
    assert fitted(name, several=False)("b", 1) == ONE_LOADER[name]


@pytest.mark.parametrize("name", SEVERAL_LOADERS)
def test_with_several_loaders_a_step_gets_their_index(name: str) -> None:
    assert fitted(name, several=True)("b", 1, 2) == SEVERAL_LOADERS[name]


@pytest.mark.parametrize(
    ("name", "several", "message"),
    [
        ("nothing", False, r"Module\.nothing\(\): expected \(batch, batch_idx\)"),
        ("keyword_only", False, r"Module\.keyword_only\(\*, batch: 'Any'\): expected"),
        ("four", False, r"requires 4 arguments; it is called with \(batch, batch_idx\)"),
        ("four", True, r"requires 4 arguments; it is called with \(batch, batch_idx, dataloader_idx\)"),
        ("three_of_other_names", False, r"requires 3 arguments"),
        (
            "iterator",
            False,
            r"one batch, not the iterator; write def iterator\(self, batch, batch_idx\)",
        ),
        ("batch_alone", True, r"takes no dataloader_idx, but there are several dataloaders"),
        ("usual", True, r"write def usual\(self, batch, batch_idx, dataloader_idx=0\)"),
    ],
)
def test_signatures_that_fit_nothing_are_named(name: str, several: bool, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fitted(name, several=several)


def test_the_usual_signatures_are_called_without_anything_between() -> None:
    module = Module()
    assert step_arguments(module.usual, module, "usual") == module.usual
    assert step_arguments(module.three, module, "three", several_loaders=True) == module.three


def test_each_call_has_a_context_of_its_own() -> None:
    events: list[Any] = []

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        events.append("enter")
        try:
            yield
        finally:
            events.append("leave")

    run = under_context(events.append, context)
    run(1)
    run(2)
    with pytest.raises(ZeroDivisionError):
        under_context(lambda: 1 / 0, context)()
    assert events == ["enter", 1, "leave", "enter", 2, "leave", "enter", "leave"]
    assert under_context(fitted, None) is fitted
