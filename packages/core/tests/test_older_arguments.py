"""Arguments of an earlier generation of the Trainer are answered with what does the same today."""

from __future__ import annotations

import inspect
import re

import pytest

import leyden.callbacks
from leyden.errors import UnknownArgumentError
from leyden.older_arguments import OLDER_ARGUMENTS
from leyden.trainer import Trainer

TODAY = set(inspect.signature(Trainer.__init__).parameters)


@pytest.mark.parametrize(("name", "instead"), OLDER_ARGUMENTS.items())
def test_an_argument_of_an_earlier_generation(name: str, instead: str) -> None:
    with pytest.raises(UnknownArgumentError) as raised:
        Trainer(**{name: 1})  # type: ignore[arg-type]
    assert str(raised.value) == f"Trainer() has no argument {name!r}. It was an argument of 1.x; instead, {instead}"


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
