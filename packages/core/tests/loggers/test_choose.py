"""Which loggers a Trainer gets, and the one that stands in for them."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any

import pytest

from leyden import MisconfigurationException
from leyden.loggers import CSVLogger
from leyden.loggers.choose import DummyLogger, choose_loggers


def chosen(logger: Any, *, off: bool = False, dummy: bool = False) -> list[Any]:
    return choose_loggers(logger, "root", off=off, dummy=dummy)


@pytest.mark.parametrize("logger", [None, True])
def test_without_a_word_it_is_a_csv_logger_in_the_root_folder(logger: Any) -> None:
    (made,) = chosen(logger)
    assert (type(made), made.save_dir) == (CSVLogger, "root")
    assert not os.path.exists("root")  # nothing is written before there is something to write


def test_false_and_an_empty_list_are_none() -> None:
    assert chosen(False) == chosen([]) == chosen(None, off=True) == chosen(False, dummy=True) == []


def test_loggers_that_are_given_are_taken_in_their_order() -> None:
    first, second = CSVLogger("a"), CSVLogger("b")
    assert chosen(first) == [first]
    assert chosen((first, second)) == chosen(iter([first, second])) == [first, second]


@pytest.mark.parametrize("logger", [None, CSVLogger("a"), [CSVLogger("a"), CSVLogger("b")]])
def test_under_fast_dev_run_each_has_a_stand_in(logger: Any) -> None:
    made = chosen(logger, dummy=True)
    assert [type(one) for one in made] == [DummyLogger] * (len(logger) if isinstance(logger, list) else 1)


@pytest.mark.parametrize("logger", ["csv", CSVLogger, 3, {"a": 1}, [CSVLogger("a"), None]])
def test_what_is_no_logger_is_an_error(logger: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(logger=.*expected a Logger, a list of them"):
        chosen(logger)


def test_the_error_shows_what_was_given_and_what_is_wrong_with_it() -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(logger=\[3\]\): .* but 3 is an int\."):
        chosen([3])


def test_barebones_takes_no_logger() -> None:
    with pytest.raises(MisconfigurationException, match=r"barebones=True, logger=.*leave the logger out"):
        chosen(CSVLogger("a"), off=True)


def test_the_stand_in_takes_anything_and_writes_nothing() -> None:
    dummy = DummyLogger()
    dummy.log_metrics({"loss": 1.0}, 3)
    dummy.log_hyperparams({"rate": 0.1})
    dummy.save()
    dummy.finalize("success")
    assert (dummy.name, dummy.version) == ("dummy", "dummy")
    dummy.experiment.add_figure("x", object()).or_more.of_it(1)
    assert type(copy.deepcopy(dummy)) is type(pickle.loads(pickle.dumps(dummy))) is DummyLogger
    assert os.listdir() == []
