"""Backward, clipping and steps as the engine drives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.runtime.engine import Engine, needs_closure


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def engine_of(module: LightningModule, **arguments: Any) -> tuple[Engine, torch.optim.Optimizer]:
    """An engine as a fit prepares it, without the fit."""
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    trainer.lightning_module_or_none = module
    module.trainer = trainer
    optimizer: torch.optim.Optimizer = module.configure_optimizers()
    trainer.engine.prepare(module, [optimizer], trainer.module_overrides)
    return trainer.engine, optimizer


def test_a_step_uses_the_gradients_there_are_and_is_counted() -> None:
    module = Module()
    engine, optimizer = engine_of(module)
    engine.backward((module.weight * 2).sum())
    assert engine.step(optimizer) is None
    assert module.weight.tolist() == [1.0, 2.0]
    assert engine.steps == 1


def test_a_closure_is_evaluated_with_gradients_and_its_value_returned() -> None:
    module = Module()
    engine, optimizer = engine_of(module)

    def closure() -> Tensor:
        loss = (module.weight * 2).sum()
        engine.backward(loss)
        return loss

    with torch.no_grad():
        assert engine.step(optimizer, closure).item() == 14.0
    assert module.weight.tolist() == [1.0, 2.0]


def test_an_idle_engine_leaves_the_optimizer_alone() -> None:
    module = Module()
    engine, optimizer = engine_of(module)
    engine.backward(module.weight.sum())
    [wrapped] = engine.optimizers

    def closure() -> None:
        engine.idle = True

    assert wrapped.step(closure) is None
    assert wrapped.step() is None
    assert (engine.steps, module.weight.tolist()) == (0, [3.0, 4.0])
    engine.prepare(module, [optimizer], lambda name: False)
    assert engine.idle is False


# -- clipping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "arguments", "expected"),
    [
        ({}, (), [3.0, 4.0]),
        ({}, (0.0, "norm"), [3.0, 4.0]),
        ({}, (1.0, None), [0.6, 0.8]),
        ({}, (1.0, "norm"), [0.6, 0.8]),
        ({}, (3.5, "value"), [3.0, 3.5]),
        ({"gradient_clip_val": 1.0}, (), [0.6, 0.8]),
        ({"gradient_clip_val": 3.5, "gradient_clip_algorithm": "value"}, (), [3.0, 3.5]),
        ({"gradient_clip_val": 3.5, "gradient_clip_algorithm": "value"}, (3.25, None), [3.0, 3.25]),
        ({"gradient_clip_val": 3.5, "gradient_clip_algorithm": "value"}, (1.0, "norm"), [0.6, 0.8]),
    ],
)
def test_what_is_passed_comes_before_the_settings(
    settings: dict[str, Any], arguments: tuple[Any, ...], expected: list[float]
) -> None:
    module = Module()
    engine, optimizer = engine_of(module, **settings)
    module.weight.grad = torch.tensor([3.0, 4.0])
    engine.clip_gradients(optimizer, *arguments)
    assert module.weight.grad.tolist() == pytest.approx(expected)


def test_parameters_without_gradients_are_passed_over() -> None:
    engine, optimizer = engine_of(Module())
    engine.clip_gradients(optimizer, 1.0, "norm")
    engine.clip_gradients(optimizer, 1.0, "value")
    assert engine.steps == 0


@pytest.mark.parametrize("arguments", [(1.0, "norm"), (3.5, "value")])
def test_scaled_gradients_are_held_to_a_scaled_limit(arguments: tuple[Any, ...]) -> None:
    """Under manual optimisation clipping comes before the step, which unscales; within the step's hook after that."""
    expected = [3.0, 3.5] if arguments[1] == "value" else [0.6, 0.8]
    module, seen = Module(), list[list[float]]()

    class Clip(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            if clips_in_hook:
                engine.clip_gradients(optimizer, *arguments)
            assert module.weight.grad is not None
            seen.append(module.weight.grad.tolist())

    engine, optimizer = engine_of(module, precision="16-mixed", callbacks=Clip())
    for clips_in_hook in (False, True):
        optimizer.zero_grad()
        engine.backward((module.weight * torch.tensor([3.0, 4.0])).sum())
        if not clips_in_hook:
            for _ in range(2):
                engine.clip_gradients(engine.optimizers[0], *arguments)
        engine.optimizers[0].step()
    assert seen == [pytest.approx(expected)] * 2


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_hides_no_overflow_from_the_scaler(algorithm: str) -> None:
    module = Module()
    engine, optimizer = engine_of(module, precision="16-mixed")
    engine.backward((module.weight * torch.tensor([torch.inf, 1.0])).sum())
    engine.clip_gradients(optimizer, 1.0, algorithm)
    engine.optimizers[0].step()
    assert engine.skipped
    assert (engine.steps, module.weight.tolist()) == (0, [3.0, 4.0])


def test_an_optimizer_without_gradients_steps_under_a_scaler_as_without_one() -> None:
    module = Module()
    engine, optimizer = engine_of(module, precision="16-mixed")
    engine.step(optimizer)
    assert (engine.steps, engine.skipped, module.weight.tolist()) == (1, False, [3.0, 4.0])
    engine.backward(module.weight.sum())
    engine.step(optimizer)
    assert (engine.steps, module.weight.tolist()) == (2, [2.0, 3.0])


def test_an_unknown_algorithm_is_an_error() -> None:
    engine, optimizer = engine_of(Module())
    with pytest.raises(MisconfigurationException, match=r"gradient_clip_algorithm='l2'\): expected 'norm' or 'value'"):
        engine.clip_gradients(optimizer, 1.0, "l2")


# -- closures ----------------------------------------------------------------------------------------------------------


class Required(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [(torch.optim.LBFGS, True), (torch.optim.SGD, False), (torch.optim.AdamW, False), (Required, True)],
)
def test_which_optimizers_need_a_closure(optimizer: Any, expected: bool) -> None:
    assert needs_closure(optimizer(Module().parameters(), lr=0.1)) is expected
