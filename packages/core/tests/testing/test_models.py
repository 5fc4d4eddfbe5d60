"""The modules of the testing kit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden import Trainer
from leyden.testing import BoringModule, ManualModule, SeveralLoadersModule


def test_each_stage_has_its_batches() -> None:
    module = BoringModule(3, 5, batches={"train": 7})
    loaders = (module.train_dataloader, module.val_dataloader, module.test_dataloader, module.predict_dataloader)
    assert [len(loader()) for loader in loaders] == [7, 1, 2, 2]
    batch = next(iter(module.train_dataloader()))
    assert (batch.shape, module(batch).shape) == ((2, 3), (2, 5))


def test_the_loss_is_the_mean_square_of_the_outputs() -> None:
    module = BoringModule()
    batch = torch.ones(2, 4)
    assert torch.equal(module.loss(batch), module(batch).pow(2).mean())
    assert module.loss(batch).requires_grad


def test_the_optimizer_has_every_parameter() -> None:
    module = BoringModule()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["params"] == list(module.parameters())


@pytest.mark.parametrize("kind", [BoringModule, ManualModule, SeveralLoadersModule])
def test_every_module_runs_in_every_stage_and_learns(kind: Any) -> None:
    torch.manual_seed(1)
    module = kind(batches={"train": 4, "val": 1, "test": 1, "predict": 3})
    trainer = Trainer(max_epochs=2, logger=False, discover_callbacks=False, accelerator="cpu")
    before = trainer.validate(module, verbose=False)[0]
    trainer.fit(module)
    after = trainer.validate(module, verbose=False)[0]
    loss = next(name for name in before if name.startswith("val_loss"))
    assert after[loss] < before[loss]
    assert any(name.startswith("test_loss") for name in trainer.test(module, verbose=False)[0])
    predicted: Any = trainer.predict(module)
    assert len(predicted[0] if kind is SeveralLoadersModule else predicted) == 3


def test_two_optimizers_step_in_turn_as_in_a_plain_loop() -> None:
    torch.manual_seed(1)
    module, plain = ManualModule(), ManualModule()
    plain.load_state_dict(module.state_dict())
    Trainer(max_epochs=1, logger=False, discover_callbacks=False, accelerator="cpu").fit(module)
    optimizers = plain.configure_optimizers()
    for batch in plain.train_dataloader():
        for optimizer in optimizers:
            optimizer.zero_grad()
            plain.loss(batch).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
