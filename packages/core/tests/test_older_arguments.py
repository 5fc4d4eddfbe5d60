"""Arguments of an earlier generation of the Trainer are answered with what does the same today."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import leyden
import leyden.callbacks
from leyden.errors import UnknownArgumentError
from leyden.older_arguments import OF_CLASSES, OLDER_ARGUMENTS, OLDER_ATTRIBUTES
from leyden.trainer import Trainer

TODAY = set(inspect.signature(Trainer.__init__).parameters)


@pytest.mark.parametrize(("name", "instead"), OLDER_ARGUMENTS.items())
def test_an_argument_of_an_earlier_generation(name: str, instead: str) -> None:
    with pytest.raises(UnknownArgumentError) as raised:
        Trainer(**{name: 1})  # type: ignore[arg-type]
    assert (
        str(raised.value) == f"Trainer() has no argument {name!r}. It is an argument of Lightning; instead, {instead}"
    )


def test_what_is_advised_is_there() -> None:
    assert not TODAY & set(OLDER_ARGUMENTS)
    for instead in OLDER_ARGUMENTS.values():
        given = set(re.findall(r"(\w+)=", re.sub(r"\([^()]*\)", "", instead)))
        assert given <= TODAY, instead
        for callback in re.findall(r"callbacks=\[(\w+)", instead):
            assert callback in leyden.callbacks.__all__, instead


def test_any_other_argument_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(
        UnknownArgumentError, match=r"^Trainer\(\) has no argument 'max_epoch'. Did you mean 'max_epochs'\?$"
    ):
        Trainer(max_epoch=3)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(logger=False, discover_callbacks=False)


@pytest.mark.parametrize(("name", "instead"), OLDER_ATTRIBUTES.items())
def test_an_attribute_of_an_earlier_generation(name: str, instead: str, trainer: Trainer) -> None:
    with pytest.raises(AttributeError) as raised:
        getattr(trainer, name)
    assert str(raised.value) == (
        f"Trainer has no attribute {name!r}. It is an attribute of Lightning; instead, {instead}"
    )
    for used in re.findall(r"trainer\.(\w+)", instead):
        assert hasattr(trainer, used), used


def test_any_other_attribute_is_missing_as_ever(trainer: Trainer) -> None:
    with pytest.raises(AttributeError, match=r"^'Trainer' object has no attribute 'max_epoch'"):
        trainer.max_epoch  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match=r"^this Trainer has no module yet; call fit"):
        trainer.lightning_module  # noqa: B018
    assert not hasattr(trainer, "tune")


@pytest.mark.parametrize("owner", [Trainer, leyden.LightningDataModule, leyden.LightningDataModule()])
def test_what_was_called_on_classes(owner: Any) -> None:
    for name in OF_CLASSES:
        with pytest.raises(AttributeError, match=r"instead, write parser\.add_argument\(\.\.\.\)"):
            getattr(owner, name)
        assert not hasattr(owner, name)


def test_a_logger_of_a_service_says_how_to_write_one() -> None:
    with pytest.raises(ImportError, match=r"^WandbLogger is not here.*subclass leyden\.loggers\.Logger"):
        exec("from leyden.loggers import WandbLogger")
