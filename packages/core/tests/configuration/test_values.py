"""What a constructor's annotations make of a file's values."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Optional, Protocol, Union

import pytest
import torch

from leyden.configuration.values import convert, in_words


class Colour(Enum):
    RED = 1
    BLUE = "b"


class Taker(Protocol):
    """Something a file cannot hold, and that cannot be checked either."""

    def take(self) -> None: ...


Metres = NewType("Metres", float)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, 3, 3),
        (float, 3, 3.0),
        (float, 0.5, 0.5),
        (str, "a", "a"),
        (bool, False, False),
        (Any, [1], [1]),
        (object, "x", "x"),
        (None, "unchecked", "unchecked"),
        (Taker, 1, 1),
        (Metres, 2, 2.0),
        (Annotated[int, "positive"], 2, 2),
        (date, date(2026, 1, 2), date(2026, 1, 2)),
        (timedelta, "01:02:03:04", timedelta(days=1, hours=2, minutes=3, seconds=4)),
        (timedelta, {"hours": 1.5}, timedelta(hours=1, minutes=30)),
        (timedelta | None, "00:00:01:00", timedelta(minutes=1)),
        (str | timedelta | Mapping[str, int], "00:00:01:00", "00:00:01:00"),
        (str | timedelta | Mapping[str, int], {"hours": 1}, {"hours": 1}),
        (Path, "a/b", Path("a/b")),
        (os.PathLike[str], "a", Path("a")),
        (str | os.PathLike[str] | None, "a", "a"),
        (Optional[Path], "a", Path("a")),  # noqa: UP045
        (Union[int, str], "3", "3"),  # noqa: UP007
        (float | int, 3, 3),
        (int | float, 0.5, 0.5),
        (bool | int, True, True),
        (Literal["min", "max"], "max", "max"),
        (Literal["link"] | bool | None, True, True),
        (Literal["link"] | bool | None, "link", "link"),
        (Colour, "RED", Colour.RED),
        (Colour, "blue", Colour.BLUE),
        (Colour, 1, Colour.RED),
        (Colour, "b", Colour.BLUE),
        (list[int], [1, 2], [1, 2]),
        (list, [1, "a"], [1, "a"]),
        (Sequence[Path], ["a"], [Path("a")]),
        (Iterable[float], [1], [1.0]),
        (tuple[str, ...], ["a", "b"], ("a", "b")),
        (tuple[int, Path], [1, "a"], (1, Path("a"))),
        (set[int], [1, 1], {1}),
        (dict[str, timedelta], {"a": "00:00:00:01"}, {"a": timedelta(seconds=1)}),
        (dict[int, int], {"4": 2}, {4: 2}),
        (Mapping[float, list[int]], {"0.5": [1]}, {0.5: [1]}),
        (dict, {"a": 1}, {"a": 1}),
        (list[int | str] | None, [1, "a"], [1, "a"]),
    ],
    ids=str,
)
def test_values_become_what_is_asked_for(annotation: Any, value: Any, expected: Any) -> None:
    made = convert(annotation, value)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, 3.0, "expected an int"),
        (int, True, "expected an int"),
        (int, "3", "expected an int"),
        (float, "3", "expected a number"),
        (float, True, "expected a number"),
        (str, 3, "expected a string"),
        (bool, 1, "expected true or false"),
        (int | None, "3", "expected an int"),
        (int | float, True, "expected an int or a number"),
        (timedelta, "12h", "expected 'DD:HH:MM:SS' (days, hours, minutes, seconds), e.g. '00:12:00:00' for 12 hours"),
        (timedelta, {"hour": 1}, "expected 'DD:HH:MM:SS' (days, hours, minutes, seconds), e.g. '00:12:00:00' for 12 "),
        (Path, 3, "expected the path of a file or folder"),
        (Literal["step", "epoch", None], "stp", "expected 'step', 'epoch' or None. Did you mean 'step'?"),
        (Literal[1, 2], True, "expected 1 or 2."),
        (Colour, "REDD", "expected 'RED' or 'BLUE'. Did you mean 'RED'?"),
        (list[int], 3, "expected a list"),
        (list[int], [1, "b"], "its element 1, 'b': expected an int"),
        (tuple[int, int], [1], "expected a list of 2, got 1"),
        (dict[str, int], [], "expected a table"),
        (dict[str, int], {"a": "b"}, "its 'a': expected an int"),
        (dict[int, int], {"a": 1}, "its 'a': expected an int as the key"),
        (list[str] | str, 3, "expected a list, each of them a string or a string"),
        (torch.device, "cpu", "expected device, which cannot be written in a file; set it where the Trainer is made"),
        (Callable[[int], int], "f", "expected Callable, which cannot be written in a file"),
    ],
    ids=str,
)
def test_what_does_not_fit_says_what_would(annotation: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        convert(annotation, value)
    assert str(caught.value).startswith(message)


def test_aliases_of_newer_pythons_are_looked_through() -> None:
    make = getattr(typing, "TypeAliasType", None)
    if make is None:
        pytest.skip("`type X = ...` came with Python 3.12")
    alias = make("alias", int | None)
    assert (convert(alias, 3), in_words(alias)) == (3, "an int")
