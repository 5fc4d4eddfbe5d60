"""A class alone tells what an instance of it would, but for what the instance has of its own."""

from __future__ import annotations

from functools import partialmethod, wraps
from typing import Any

import pytest

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.hooks.checks import check_callbacks
from leyden.hooks.contract import HOOKS
from leyden.hooks.findings import Examined, findings, overrides, overrides_of
from leyden.module import LightningModule


def logged(method: Any) -> Any:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return call


class Forms(Callback):
    """Hooks in every form in which a class can hold a method."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None: ...

    @staticmethod
    def on_fit_end(trainer: Any, pl_module: Any) -> None: ...

    @classmethod
    def on_train_start(cls, trainer: Any, pl_module: Any) -> None: ...

    @logged
    def on_train_end(self, trainer: Any, pl_module: Any) -> None: ...

    def both(self, trainer: Any, pl_module: Any, *, which: str) -> None: ...

    on_test_start = partialmethod(both, which="start")
    on_test_end = print  # type: ignore[assignment]

    def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None: ...  # type: ignore[override]

    def on_exception(self, error: Any) -> None: ...  # type: ignore[override]

    def on_validation_starts(self) -> None: ...


def test_a_class_tells_what_its_instance_tells() -> None:
    def seen(examined: Examined) -> Any:
        return [(one.hook.name, one.fitted) for one in overrides_of(examined)], list(findings(examined))

    assert seen(Examined(Forms)) == seen(Examined(Forms, Forms()))
    of_class = list(overrides_of(Examined(Forms)))
    assert [one.hook.name for one in of_class] == [
        "on_fit_start", "on_train_start", "on_train_epoch_end", "on_train_end", "on_fit_end", "on_test_start",
        "on_test_end", "on_exception",
    ]  # fmt: skip
    assert [one.hook.name for one in of_class if one.fitted is None] == ["on_exception"]


def test_an_instances_own_methods_are_seen_with_the_instance_alone() -> None:
    callback = Callback()
    callback.on_fit_start = lambda trainer, pl_module: None  # type: ignore[method-assign]
    assert [one.hook.name for one in overrides_of(Examined(Callback, callback))] == ["on_fit_start"]
    assert list(overrides_of(Examined(Callback))) == []


@pytest.mark.parametrize("base", [Callback, LightningModule, LightningDataModule])
def test_bases_have_no_findings_and_override_nothing(base: type) -> None:
    assert list(findings(Examined(base))) == []
    assert list(overrides_of(Examined(base))) == []
    assert not any(overrides(base(), name) for name in HOOKS)


def test_kinds_have_their_own_hooks() -> None:
    kinds = {Examined(base).kind: Examined(base).hooks for base in (Callback, LightningModule, LightningDataModule)}
    assert list(kinds) == ["callback", "module", "datamodule"]
    assert "on_sanity_check_start" in kinds["callback"]
    assert "training_step" in kinds["module"]
    assert "training_step" not in kinds["callback"]
    assert kinds["datamodule"] == tuple(name for name, hook in HOOKS.items() if hook.datamodule)


def test_a_datamodules_methods_are_called_as_they_are() -> None:
    """No plan binds them, so that a method which takes fewer arguments than it gets is a mistake."""

    class Data(LightningDataModule):
        def setup(self) -> None: ...  # type: ignore[override]

        def teardown(self, stage: str | None = None) -> None: ...

        def state_dict(self) -> dict[str, Any]:
            return {}

    assert [(one.hook.name, one.fitted is None) for one in overrides_of(Examined(Data))] == [
        ("setup", True), ("teardown", False), ("state_dict", False),
    ]  # fmt: skip
    assert [one.message for one in findings(Examined(Data))] == [
        f"{Data.__qualname__}.setup takes (), but gets (stage). Give it these arguments."
    ]


def test_arguments_in_another_order_than_they_are_passed() -> None:
    """Names are free, so that it runs; but names of the contract in other places are a slip."""

    class Swapped(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch_idx: Any, batch: Any) -> None: ...  # type: ignore[override]

        def on_train_batch_end(self, trainer: Any, pl_module: Any, out: Any, data: Any, batch_idx: Any) -> None: ...

        def on_test_batch_end(self, batch: Any, outputs: Any) -> None: ...  # type: ignore[override]

        def on_test_start(self, *args: Any) -> None: ...

    where = f"{Swapped.__qualname__}.on_train_batch_start"
    assert [(one.message, one.warns, one.mistake) for one in findings(Examined(Swapped))] == [
        (
            f"{where} takes (trainer, pl_module, batch_idx, batch), but gets (trainer, pl_module, batch, batch_idx) in "
            "this order. Reorder them.",
            UserWarning,
            True,
        )
    ]
    with pytest.warns(UserWarning, match="in this order"):
        check_callbacks([Swapped()])


class NeverRuns(Callback):
    """A call of these makes a coroutine or a generator, and runs nothing."""

    async def on_fit_start(self, trainer: Any, pl_module: Any) -> None: ...  # type: ignore[override]

    def on_fit_end(self, trainer: Any, pl_module: Any) -> Any:
        yield trainer

    async def on_train_end(self, trainer: Any, pl_module: Any) -> Any:
        yield trainer


def test_hooks_that_a_call_does_not_run_are_errors() -> None:
    messages = {finding.name: finding.message for finding in findings(Examined(NeverRuns)) if finding.warns is None}
    assert list(messages) == ["on_fit_start", "on_train_end", "on_fit_end"]
    assert messages["on_fit_start"] == (
        "NeverRuns.on_fit_start is a coroutine (`async def`), so that a call makes one and runs nothing of it: hooks "
        "are neither awaited nor iterated. Make it a plain method."
    )
    assert "on_fit_end is a generator (`yield`)" in messages["on_fit_end"]
