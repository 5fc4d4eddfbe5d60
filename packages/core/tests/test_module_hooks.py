"""What hooks do when nobody overrides them."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from leyden import LightningDataModule, LightningModule, MisconfigurationException
from leyden.hooks.contract import HOOKS
from leyden.module_hooks import ModuleHooks
from leyden.testing.models import BoringModule


def test_every_module_hook_of_the_contract_is_there() -> None:
    missing = [
        hook.name for hook in HOOKS.values() if hook.module and not callable(getattr(LightningModule, hook.name, 0))
    ]
    older = [name for name in missing if HOOKS[name].replacement]
    assert sorted(missing) == sorted(older)


def test_arguments_are_those_of_the_contract() -> None:
    for name in (name for name in vars(ModuleHooks) if name.startswith("on_") and name in HOOKS):
        parameters = list(inspect.signature(getattr(LightningModule, name)).parameters)[1:]
        assert parameters == list(HOOKS[name].arguments), name


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_model_modes_are_evaluation_and_training(stage: str) -> None:
    module = BoringModule()
    getattr(module, f"on_{stage}_model_eval")()
    assert not module.training
    assert not module.layer.training
    getattr(module, f"on_{stage}_model_train")()
    assert module.training
    assert module.layer.training


def test_gradients_are_freed_before_validation() -> None:
    module = BoringModule()
    module(torch.ones(1, 4)).sum().backward()
    module.on_validation_model_zero_grad()
    assert [parameter.grad for parameter in module.parameters()] == [None, None]


def test_batches_pass_through_the_transfer_hooks() -> None:
    module, batch = BoringModule(), {"x": [torch.ones(2)], "name": "a"}
    assert module.on_before_batch_transfer(batch, 0) is batch
    assert module.on_after_batch_transfer(batch, 0) is batch
    moved: Any = module.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["x"][0].device == torch.device("meta")
    assert moved["name"] == "a"


@pytest.mark.parametrize("make", [LightningModule, LightningDataModule])
@pytest.mark.parametrize(
    ("hook", "entry_point"),
    [("train_dataloader", "fit"), ("val_dataloader", "validate"), ("test_dataloader", "test"),
     ("predict_dataloader", "predict")],
)  # fmt: skip
def test_a_missing_loader_is_named(make: Any, hook: str, entry_point: str) -> None:
    with pytest.raises(
        MisconfigurationException, match=rf"has no {hook}. Define .* or give the loader to trainer.{entry_point}"
    ):
        getattr(make(), hook)()


def test_the_rest_does_nothing() -> None:
    module = BoringModule()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert module.configure_callbacks() == []
    assert module.on_train_batch_start(None, 0) is None
    arguments: dict[str, Any] = {"stage": "fit", "checkpoint": {}, "optimizer": None, "loss": torch.ones(1)}
    special = ("transfer", "model", "dataloader", "configure")
    for name in (name for name in HOOKS if name.startswith("on_") or name in ("setup", "teardown", "prepare_data")):
        hook = getattr(module, name, None)
        if hook is not None and not any(word in name for word in special):
            assert hook(*(arguments.get(argument) for argument in HOOKS[name].arguments)) is None
    assert arguments["checkpoint"] == {}
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
