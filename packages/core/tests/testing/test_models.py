"""The module and the data of the testing kit."""

from __future__ import annotations

import torch

from leyden.testing import BoringModule, RandomDataset


def test_data_is_the_same_for_one_seed_and_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = RandomDataset(4, 6), RandomDataset(4, 6), RandomDataset(4, 6, seed=1)
    assert torch.equal(one.data, same.data)
    assert not torch.equal(one.data, other.data)
    assert torch.equal(torch.get_rng_state(), state)
    assert (len(one), one[2].shape) == (6, (4,))


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
