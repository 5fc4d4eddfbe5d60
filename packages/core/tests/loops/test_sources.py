"""Where dataloaders come from, and what the strategy makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden import LightningDataModule, LightningModule, MisconfigurationException, Trainer
from leyden.loops.sources import has_loader, request_eval_source, request_loader, request_train_source
from leyden.runtime.strategy import Strategy


class Module(LightningModule):
    def train_dataloader(self) -> Any:
        return ["module's"]

    def val_dataloader(self) -> Any:
        return ["module's"]


class Data(LightningDataModule):
    def train_dataloader(self) -> Any:
        return ["datamodule's"]


class Marking(Strategy):
    """Puts the stage before each batch."""

    def prepare_loader(self, loader: Any, stage: str) -> Any:
        return [stage, *loader]


def attached(module: LightningModule | None = None, data: Any = None, given: Any = None, **arguments: Any) -> Trainer:
    """A trainer as an entry point leaves it."""
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    trainer.lightning_module_or_none = module or Module()
    trainer.datamodule = data
    trainer.given_loaders = given or {}
    return trainer


def test_what_was_passed_comes_before_the_datamodules_and_that_before_the_modules() -> None:
    passed = {"train_dataloader": ["passed"]}
    assert request_loader(attached(data=Data(), given=passed), "train_dataloader") == ["passed"]
    assert request_loader(attached(data=Data()), "train_dataloader") == ["datamodule's"]
    assert request_loader(attached(data=Data()), "val_dataloader") == ["module's"]
    assert request_loader(attached(), "train_dataloader") == ["module's"]


def test_whether_there_is_one_is_known_without_calling_anything() -> None:
    class Raises(LightningModule):
        def test_dataloader(self) -> Any:
            raise AssertionError("called")

    trainer = attached(Raises(), given={"val_dataloader": []})
    names = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
    assert [has_loader(trainer, name) for name in names] == [False, True, True, False]


def test_the_hook_that_is_running_is_known_to_the_journal() -> None:
    trainer = attached()
    request_loader(trainer, "train_dataloader")
    assert trainer.journal.hook == "train_dataloader"


def test_a_hook_that_gives_none_is_named() -> None:
    class Forgot(LightningModule):
        def train_dataloader(self) -> Any:
            return None

    with pytest.raises(MisconfigurationException, match="`train_dataloader` gave None instead of a loader"):
        request_loader(attached(Forgot()), "train_dataloader")


def test_the_strategy_prepares_each_loader_for_its_stage() -> None:
    loaders = {f"{name}_dataloader": [name] for name in ("train", "val", "test", "predict")}
    trainer = attached(given=loaders, strategy=Marking(torch.device("cpu")))
    assert list(request_train_source(trainer)) == ["train", "train"]
    for stage, name in (("validate", "val"), ("test", "test"), ("predict", "predict")):
        [(index, batches)] = request_eval_source(trainer, stage)
        assert (index, list(batches)) == (0, [stage, name])


def test_it_does_not_without_use_distributed_sampler() -> None:
    given = {"train_dataloader": ["a"]}
    trainer = attached(given=given, strategy=Marking(torch.device("cpu")), use_distributed_sampler=False)
    assert list(request_train_source(trainer)) == ["a"]


def test_limits_and_overfitting_come_from_the_settings() -> None:
    loaders = {f"{name}_dataloader": [1, 2, 3] for name in ("train", "val", "test", "predict")}
    trainer = attached(given=loaders, limit_train_batches=2, limit_val_batches=1, limit_test_batches=0.7)
    assert request_train_source(trainer).num_batches == 2
    stages = ("validate", "test", "predict")
    assert [request_eval_source(trainer, stage).num_batches for stage in stages] == [[1], [2], [3]]
    trainer = attached(given=loaders, overfit_batches=2)
    assert request_train_source(trainer).num_batches == 2
    assert [request_eval_source(trainer, stage).num_batches for stage in stages] == [[2], [3], [3]]
