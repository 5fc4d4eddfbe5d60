"""Hyperparameters as plain data, and back by what ``__init__`` declares."""

from __future__ import annotations

import datetime
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.hparams_encoding import decode, encode
from leyden.state import storage


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Inner:
    colour: Colour = Colour.RED


@dataclass
class Config:
    lr: float
    inner: Inner = field(default_factory=Inner)
    half: float = field(init=False)

    def __post_init__(self) -> None:
        self.half = self.lr / 2


class Base:
    def __init__(self, colour: Colour = Colour.RED, level: Level | None = None) -> None: ...


class Model(Base):
    def __init__(self, config: Config, maybe: Inner | None = None, either: Inner | Colour | None = None, **rest: Any):
        super().__init__(**rest)


def test_declared_dataclasses_and_enums_come_back_as_they_were() -> None:
    hparams = {"config": Config(0.5), "maybe": Inner(), "colour": Colour.RED, "level": Level.LOW}
    stored, left_out = encode(Model, hparams)
    assert stored == {
        "config": {"lr": 0.5, "inner": {"colour": "red"}},
        "maybe": {"colour": "red"},
        "colour": "red",
        "level": 1,
    }
    assert left_out == {}
    restored = decode(Model, stored)
    assert restored == hparams
    assert [type(value) for value in restored.values()] == [Config, Inner, Colour, Level]


def test_none_of_an_optional_stays_none() -> None:
    assert decode(Model, encode(Model, {"maybe": None, "level": None})[0]) == {"maybe": None, "level": None}


@pytest.mark.parametrize("hparams", [{"either": Inner()}, {"unknown": Inner()}, {"config": object()}])
def test_what_no_declaration_rebuilds_is_left_out(hparams: dict[str, Any]) -> None:
    stored, left_out = encode(Model, hparams)
    assert stored == {}
    assert list(left_out) == list(hparams)


def test_declarations_that_cannot_be_looked_up_rebuild_nothing() -> None:
    @dataclass
    class Local:
        lr: float = 0.1

    class Unresolvable:
        def __init__(self, config: Local) -> None: ...

    assert encode(Unresolvable, {"config": Local()})[0] == {}
    assert decode(Unresolvable, {"config": {"lr": 0.1}}) == {"config": {"lr": 0.1}}


def test_plain_values_survive_a_safe_file(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    values = {
        "number": 1.5, "text": "a", "nested": {"list": [1, (2, None)]}, "tensor": torch.ones(2), "dtype": torch.float16,
        "path": Path("a/b"), "date": datetime.date(2026, 1, 2), "flag": True, "numpy": numpy.float32(0.5),
    }  # fmt: skip
    stored, left_out = encode(Model, values)
    assert left_out == {}
    storage.save(stored, tmp_path / "file")
    restored = decode(Model, storage.load(tmp_path / "file"))
    tensors = restored.pop("tensor"), values.pop("tensor")
    assert torch.equal(*tensors)
    assert restored == values
