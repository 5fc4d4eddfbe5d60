"""Hyperparameter: a value by its name, wherever a user keeps it."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

from leyden import LightningDataModule, LightningModule
from leyden.errors import MisconfigurationException
from leyden_optim.hyperparameter import Hyperparameter


class Module(LightningModule):
    optim: Any
    lr: Any

    def __init__(self, lr: float = 0.1, optim: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()


class Delegating(Module):
    @property
    def lr(self) -> float:
        return float(self.hparams.lr)


def test_it_is_found_in_hparams_and_attributes_and_set_in_both() -> None:
    module = Module()
    module.lr = 0.2
    rate = Hyperparameter("lr", module)
    assert (rate.found, rate.read()) == (True, 0.2)
    rate.write(0.5)
    assert (module.lr, module.hparams.lr) == (0.5, 0.5)
    assert not Hyperparameter("rate", module).found


def test_a_property_that_gives_what_hparams_have_is_no_place_of_its_own() -> None:
    module = Delegating()
    Hyperparameter("lr", module).write(0.5)
    assert module.lr == 0.5


@pytest.mark.parametrize("nested", [{"inner": {"lr": 1.0}}, {"inner.lr": 1.0}])
def test_names_with_dots_go_into_dicts_and_objects(nested: Any) -> None:
    module = Module(optim=nested)
    rate = Hyperparameter("optim.inner.lr", module)
    rate.write(0.5)
    assert rate.read() == Hyperparameter("optim.inner.lr", module).read() == 0.5
    module.optim = Namespace(inner=Namespace(lr=2.0))
    Hyperparameter("optim.inner.lr", module).write(0.25)
    assert (module.optim.inner.lr, rate.read()) == (0.25, 0.25)


def test_a_datamodule_may_keep_it() -> None:
    module, data = Module(), Data()
    size = Hyperparameter("batch_size", module, data, None)
    size.write(8)
    assert (size.read(), data.hparams.batch_size, hasattr(module, "batch_size")) == (8, 8, False)


def test_what_cannot_be_set_says_so() -> None:
    module = Module()
    object.__setattr__(module, "frozen", Frozen())
    with pytest.raises(
        MisconfigurationException, match=r"'frozen.lr' of Frozen cannot be set to 0.5: .*plain attribute"
    ):
        Hyperparameter("frozen.lr", module).write(0.5)


class Frozen:
    lr = 0.1

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("frozen")
