from __future__ import annotations

import sys
from argparse import Namespace
from types import ModuleType
from typing import Any

import pytest
import torch

import leyden.loggers
from leyden import Trainer
from leyden.loggers import Logger
from leyden.loggers.logger import as_dict
from leyden.testing import BoringModule


class Least(Logger):
    """What a logger has to have, and no more."""

    name, version = "least", None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.calls.append((step, metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


def test_the_least_logger_works_in_a_run() -> None:
    logger = Least()
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        max_epochs=1,
        limit_val_batches=0,
        discover_callbacks=False,
    )
    trainer.fit(BoringModule())
    assert [(step, sorted(metrics)) for step, metrics in logger.calls] == [
        (0, ["epoch", "train_loss"]),
        (1, ["epoch", "train_loss"]),
    ]
    assert (trainer.logger, trainer.loggers) == (logger, [logger])


def test_everything_else_is_optional() -> None:
    logger = Least()
    assert (logger.save_dir, logger.root_dir, logger.log_dir, logger.experiment) == (None, None, None, None)
    assert logger.group_separator == "/"
    logger.log_graph(torch.nn.Linear(1, 1))
    logger.after_save_checkpoint(None)
    logger.load_state_dict(logger.state_dict())
    logger.finalize("failed")
    assert logger.calls == []


def test_a_module_is_drawn_when_it_is_trained_and_not_when_it_is_tested() -> None:
    class Drawing(Least):
        def log_graph(self, model: torch.nn.Module, input_array: torch.Tensor | None = None) -> None:
            self.calls.append(model)

    trainer = Trainer(
        accelerator="cpu", logger=[first := Drawing(), second := Drawing()], max_epochs=1, discover_callbacks=False
    )
    module = BoringModule()

    def drawn() -> list[list[torch.nn.Module]]:
        return [[call for call in one.calls if isinstance(call, torch.nn.Module)] for one in (first, second)]

    trainer.test(module, verbose=False)
    assert drawn() == [[], []]
    trainer.fit(module)
    assert drawn() == [[module], [module]]


def test_finalize_saves() -> None:
    class Saving(Least):
        def save(self) -> None:
            self.calls.append("save")

    logger = Saving()
    logger.finalize("success")
    assert logger.calls == ["save"]


def test_abstract_methods_are_asked_for() -> None:
    with pytest.raises(TypeError, match="log_metrics"):
        type("Nothing", (Logger,), {})()


@pytest.mark.parametrize("params", [{"a": 1}, Namespace(a=1)])
def test_hyperparameters_come_as_a_dict_or_namespace(params: Any) -> None:
    assert as_dict(params) == {"a": 1}
    assert as_dict(None) == {}


def test_an_unknown_logger_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="SqlLogger"):
        _ = leyden.loggers.SqlLogger


def test_tensorboard_s_logger_is_in_the_monitoring_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(leyden.loggers), "TensorBoardLogger", raising=False)
    monkeypatch.setitem(sys.modules, "leyden_monitoring", None)
    with pytest.raises(ImportError, match="pip install leyden-callbacks-monitoring"):
        _ = leyden.loggers.TensorBoardLogger


def test_a_monitoring_family_without_the_class_is_to_be_upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(leyden.loggers), "TensorBoardLogger", raising=False)
    monkeypatch.setitem(sys.modules, "leyden_monitoring", ModuleType("leyden_monitoring"))
    with pytest.raises(ImportError, match=r"pip install --upgrade leyden-callbacks-monitoring"):
        _ = leyden.loggers.TensorBoardLogger
