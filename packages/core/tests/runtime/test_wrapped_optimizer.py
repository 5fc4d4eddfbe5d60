"""Optimizers as modules meet them: what is the wrapped one's, and that torch takes them for it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import LightningModule, Trainer
from leyden.runtime.engine import Engine
from leyden.runtime.wrapped_optimizer import LightningOptimizer


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def engine_of(module: LightningModule) -> tuple[Engine, torch.optim.Optimizer]:
    """An engine as a fit prepares it, without the fit."""
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    trainer.lightning_module_or_none = module
    module.trainer = trainer
    optimizer: torch.optim.Optimizer = module.configure_optimizers()
    trainer.engine.prepare(module, [optimizer], trainer.module_overrides)
    return trainer.engine, optimizer


def test_the_wrapper_is_the_optimizer_but_for_its_step() -> None:
    module = Module()
    engine, optimizer = engine_of(module)
    [wrapped] = engine.optimizers
    assert wrapped.optimizer is optimizer
    assert wrapped.param_groups is optimizer.param_groups
    assert wrapped.state_dict() == optimizer.state_dict()
    assert repr(wrapped).startswith("LightningOptimizer(SGD")
    module.weight.grad = torch.ones(2)
    wrapped.zero_grad(set_to_none=False)
    assert module.weight.grad.tolist() == [0.0, 0.0]
    wrapped.zero_grad()
    assert module.weight.grad is None
    with pytest.raises(AttributeError, match="no_such"):
        _ = wrapped.no_such


def test_arguments_of_step_reach_the_optimizer() -> None:
    class Scaled(torch.optim.SGD):
        def step(self, closure: Any = None, *, times: int = 1) -> Any:
            for _ in range(times):
                super().step(closure)
            return f"{times} times"

    class Own(Module):
        def configure_optimizers(self) -> Any:
            return Scaled(self.parameters(), lr=1.0)

    module = Own()
    engine, _ = engine_of(module)
    [wrapped] = engine.optimizers
    engine.backward(module.weight.sum())
    assert wrapped.step(times=2) == "2 times"
    assert module.weight.tolist() == [1.0, 2.0]
    assert engine.steps == 1


def test_it_is_an_optimizer_of_the_wrapped_class() -> None:
    engine, _ = engine_of(Module())
    wrapped: Any = engine.optimizers[0]
    assert isinstance(wrapped, torch.optim.Optimizer)
    assert isinstance(wrapped, torch.optim.SGD)
    assert isinstance(wrapped, LightningOptimizer)
    assert not isinstance(wrapped, torch.optim.Adam)
    assert type(wrapped) is LightningOptimizer


def test_attributes_are_set_on_the_wrapped_one() -> None:
    engine, optimizer = engine_of(Module())
    wrapped: Any = engine.optimizers[0]
    wrapped.mark = 3
    wrapped.param_groups = groups = [dict(optimizer.param_groups[0], lr=0.5)]
    assert optimizer.mark == 3  # type: ignore[attr-defined]
    assert optimizer.param_groups is groups
    wrapped.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    assert len(optimizer.param_groups) == 2
    wrapped.load_state_dict(wrapped.state_dict())
    assert wrapped.param_groups is optimizer.param_groups


def test_a_shallow_copy_is_another_wrapper_and_a_deep_one_or_a_pickle_the_optimizer() -> None:
    engine, optimizer = engine_of(Module())
    wrapped: Any = engine.optimizers[0]
    shallow = copy.copy(wrapped)
    assert type(shallow) is LightningOptimizer
    assert shallow is not wrapped
    assert shallow.optimizer is optimizer
    for other in (copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert type(other) is torch.optim.SGD
        assert other.param_groups[0]["lr"] == 1.0
        assert other.param_groups[0]["params"][0] is not optimizer.param_groups[0]["params"][0]


def test_a_wrapper_that_is_still_empty_can_be_asked_for_anything() -> None:
    """Copying and pickling make an object first and look at it before it has attributes."""
    empty = object.__new__(LightningOptimizer)
    assert not isinstance(empty, torch.optim.Optimizer)
    with pytest.raises(AttributeError):
        empty.param_groups  # noqa: B018


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("factory", [torch.optim.lr_scheduler.StepLR, torch.optim.lr_scheduler.ReduceLROnPlateau])
def test_schedulers_are_built_on_it(automatic: bool, factory: Any) -> None:
    """Warnings are errors here: a scheduler warns when it thinks that its optimizer was not stepped."""

    class Scheduled(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = automatic

        def on_train_start(self) -> None:
            optimizer = self.optimizers()
            self.scheduler = (
                factory(optimizer, 1, gamma=0.5)
                if factory is torch.optim.lr_scheduler.StepLR
                else factory(optimizer, factor=0.5, patience=0, threshold=1e9)
            )

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if automatic:
                return self.weight.sum()
            self.optimizers().zero_grad()
            self.manual_backward(self.weight.sum())
            self.optimizers().step()
            return None

        def on_train_batch_end(self, *args: Any) -> None:
            self.scheduler.step(*(() if factory is torch.optim.lr_scheduler.StepLR else (1.0,)))

    module = Scheduled()
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, max_epochs=1)
    trainer.fit(module, [torch.ones(1)] * 3)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125
    assert module.weight[0].item() == 3.0 - 1.75
    assert trainer.global_step == 3


def test_a_scaler_takes_it() -> None:
    module = Module()
    engine, _ = engine_of(module)
    wrapped: Any = engine.optimizers[0]
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    torch.autograd.backward(scaler.scale(module.weight.sum()))
    scaler.unscale_(wrapped)
    scaler.step(wrapped)
    scaler.update()
    assert module.weight.tolist() == [2.0, 3.0]
    assert engine.steps == 1


def test_the_trainer_that_is_given_wrappers_keeps_the_optimizers() -> None:
    engine, optimizer = engine_of(Module())
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    given: Any = engine.optimizers
    trainer.optimizers = given
    assert trainer.optimizers == [optimizer]
