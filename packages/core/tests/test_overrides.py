"""Whether something has a hook of its own."""

from __future__ import annotations

import functools

import pytest

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.module import LightningModule
from leyden.overrides import is_overridden


class Module(LightningModule):
    def on_fit_start(self) -> None: ...


class Data(LightningDataModule):
    def setup(self, stage: str) -> None: ...


@pytest.mark.parametrize(
    ("instance", "own", "inherited"),
    [(Module(), "on_fit_start", "on_fit_end"), (Data(), "setup", "teardown")],
)
def test_of_modules_and_datamodules(instance: object, own: str, inherited: str) -> None:
    assert is_overridden(own, instance)
    assert not is_overridden(inherited, instance)


def test_what_is_set_on_the_instance_counts() -> None:
    callback = Callback()
    assert not is_overridden("on_fit_start", callback)
    callback.on_fit_start = functools.partial(print)  # type: ignore[method-assign]
    assert is_overridden("on_fit_start", callback)


def test_an_inherited_override_counts_and_none_has_nothing() -> None:
    class Child(Module):
        pass

    assert is_overridden("on_fit_start", Child())
    assert not is_overridden("on_fit_start", Child(), parent=Module)
    assert not is_overridden("on_fit_start", None)


def test_a_parent_is_needed_and_must_have_the_method() -> None:
    with pytest.raises(ValueError, match="needs `parent`"):
        is_overridden("on_fit_start", object())
    with pytest.raises(ValueError, match="LightningModule has no 'on_nothing'"):
        is_overridden("on_nothing", Module())
    assert not is_overridden("on_fit_start", object(), parent=Callback)
