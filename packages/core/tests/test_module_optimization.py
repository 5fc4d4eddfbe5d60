"""The steps of optimisation, alone and under a trainer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.testing import BoringModule, RandomDataset


def attached(module: LightningModule, *optimizers: torch.optim.Optimizer) -> LightningModule:
    trainer = Trainer(logger=False, discover_callbacks=False)
    trainer.optimizers = list(optimizers)
    trainer.engine.prepare(module, trainer.optimizers, lambda name: False)
    module.trainer = trainer
    return module


def test_defaults_do_the_plain_thing() -> None:
    module = BoringModule()
    optimizer = SGD(module.parameters(), lr=1.0)
    module.backward(module.loss(torch.ones(1, 4)))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    gradients = [parameter.grad for parameter in module.parameters()]
    module.optimizer_step(0, 0, optimizer)
    for parameter, old, gradient in zip(module.parameters(), before, gradients, strict=True):
        assert gradient is not None
        assert torch.equal(parameter, old - gradient)
    module.optimizer_zero_grad(0, 0, optimizer)
    assert [parameter.grad for parameter in module.parameters()] == [None, None]


def test_schedulers_step_with_their_metric_or_without() -> None:
    module, metric = BoringModule(), torch.tensor(1.0)
    optimizer = SGD(module.parameters(), lr=1.0)
    plain, plateau = StepLR(optimizer, 1, gamma=0.5), ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
    optimizer.step()
    module.lr_scheduler_step(plain, None)
    assert optimizer.param_groups[0]["lr"] == 0.5
    module.lr_scheduler_step(plateau, metric)
    module.lr_scheduler_step(plateau, metric + 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_a_closure_is_called_by_the_step() -> None:
    module, calls = BoringModule(), []
    module.optimizer_step(0, 0, SGD(module.parameters(), lr=1.0), lambda: calls.append(1))
    assert calls == [1]


def test_configure_optimizers_must_be_there() -> None:
    with pytest.raises(MisconfigurationException, match=r"LightningModule has no configure_optimizers.*or return None"):
        LightningModule().configure_optimizers()


def test_manual_backward_is_for_manual_optimisation() -> None:
    with pytest.raises(MisconfigurationException, match=r"automatic_optimization = False in BoringModule.__init__"):
        BoringModule().manual_backward(torch.ones(1, requires_grad=True))


def test_optimizers_are_one_or_a_list() -> None:
    module = BoringModule()
    one, two = SGD(module.parameters(), lr=1.0), Adam(module.parameters())
    assert attached(module).optimizers() == []
    assert attached(module, one).optimizers(use_pl_optimizer=False) is one
    assert attached(module, one, two).optimizers(use_pl_optimizer=False) == [one, two]
    assert attached(module, one).optimizers().optimizer is one
    assert [wrapped.optimizer for wrapped in attached(module, one, two).optimizers()] == [one, two]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_schedulers_are_none_one_or_a_list(number: int) -> None:
    seen: list[Any] = []

    class Model(BoringModule):
        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), lr=1.0)
            self.made = [ConstantLR(optimizer) for _ in range(number)]
            return [optimizer], self.made

        def on_train_start(self) -> None:
            seen.append(self.lr_schedulers())

    module = Model()
    Trainer(max_epochs=1, logger=False, discover_callbacks=False).fit(module)
    assert seen == [[None, *module.made, module.made][number if number < 2 else -1]]


@pytest.mark.parametrize(("value", "algorithm", "expected"), [(1.0, "norm", [0.6, 0.8]), (3.5, "value", [3.0, 3.5])])
def test_gradients_are_clipped_by_the_engine(value: float, algorithm: str, expected: list[float]) -> None:
    class Model(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

    module = Model()
    optimizer = SGD(module.parameters(), lr=1.0)
    attached(module, optimizer)
    module.weight.grad = torch.tensor([3.0, 4.0])
    module.configure_gradient_clipping(optimizer, gradient_clip_val=None, gradient_clip_algorithm=None)
    assert module.weight.grad.tolist() == [3.0, 4.0]
    module.configure_gradient_clipping(optimizer, gradient_clip_val=value, gradient_clip_algorithm=algorithm)
    assert module.weight.grad.tolist() == pytest.approx(expected, abs=1e-5)


class Parts(LightningModule):
    """Five parameters, of which optimizers may share some."""

    def __init__(self, requires_grad: list[bool]) -> None:
        super().__init__()
        self.all = nn.ParameterList([nn.Parameter(torch.zeros(1), requires_grad=flag) for flag in requires_grad])

    def flags(self) -> list[bool]:
        return [parameter.requires_grad for parameter in self.all]


@given(
    flags=st.lists(st.booleans(), min_size=5, max_size=5),
    groups=st.lists(st.sets(st.integers(0, 4), min_size=1), min_size=2, max_size=3),
    order=st.lists(st.integers(0, 2), min_size=1, max_size=4),
)
def test_toggling_isolates_one_optimizer_and_restores_exactly(
    flags: list[bool], groups: list[set[int]], order: list[int]
) -> None:
    module = Parts(flags)
    optimizers = [SGD([module.all[i] for i in sorted(group)], lr=1.0) for group in groups]
    attached(module, *optimizers)
    for index in (item % len(groups) for item in order):
        module.toggle_optimizer(optimizers[index])
        others = set().union(*groups) - groups[index]
        assert module.flags() == [flag and i not in others for i, flag in enumerate(flags)]
    module.untoggle_optimizer(optimizers[0])
    assert module.flags() == flags


def test_toggling_ends_with_the_block_also_by_an_exception() -> None:
    module = Parts([True] * 5)
    one, two = SGD([*module.all][:3], lr=1.0), SGD([*module.all][2:], lr=1.0)
    attached(module, one, two)

    def fail() -> None:
        with module.toggled_optimizer(module.optimizers()[1]):
            assert module.flags() == [False, False, True, True, True]
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert module.flags() == [True] * 5


class Adversaries(LightningModule):
    """Two nets with a layer in common, each with an optimizer of its own; ``plain`` does the same without a trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(3)
        self.shared, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
        self.one.bias.requires_grad = False
        self.graph: list[list[bool]] = []

    def losses(self, batch: torch.Tensor) -> list[torch.Tensor]:
        hidden = self.shared(batch).tanh()
        return [(self.one(hidden) - self.two(hidden)).square().mean(), (self.two(hidden) - 1).square().mean()]

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers()):
            with self.toggled_optimizer(optimizer):
                self.graph.append([parameter.requires_grad for parameter in self.parameters()])
                loss = self.losses(batch)[index]
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")
                optimizer.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self) -> Any:
        first = SGD([*self.shared.parameters(), *self.one.parameters()], lr=0.1, momentum=0.9)
        second = Adam([*self.shared.parameters(), *self.two.parameters()], lr=0.01)
        return [first, second], [StepLR(first, 2, gamma=0.5), StepLR(second, 3, gamma=0.5)]


def plain_loop(model: Adversaries, batches: list[torch.Tensor], epochs: int) -> None:
    (first, second), schedulers = model.configure_optimizers()
    own = [[*model.shared.parameters(), *model.one.parameters()], [*model.shared.parameters(), *model.two.parameters()]]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for batch in batches * epochs:
        for index, optimizer in enumerate((first, second)):
            for parameter in trainable:
                parameter.requires_grad = any(parameter is mine for mine in own[index])
            loss = model.losses(batch)[index]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [parameter for parameter in own[index] if parameter.grad is not None]
            nn.utils.clip_grad_norm_(gradients, 0.05)
            optimizer.step()
            for parameter in trainable:
                parameter.requires_grad = True
        for scheduler in schedulers:
            scheduler.step()


def test_manual_optimisation_equals_a_plain_loop_bit_for_bit() -> None:
    loader = DataLoader(RandomDataset(4, 12), batch_size=3)
    trained, expected = Adversaries(), Adversaries()
    trainer = Trainer(max_epochs=3, logger=False, discover_callbacks=False)
    trainer.fit(trained, loader)
    plain_loop(expected, list(loader), epochs=3)
    assert trainer.global_step == 24
    for (name, parameter), other in zip(trained.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(parameter, other), name
    assert [parameter.requires_grad for parameter in trained.parameters()] == [True, True, True, False, True, True]
    assert trained.graph[:2] == [[True, True, True, False, False, False], [True, True, False, False, True, True]]


def test_manual_optimisation_goes_on_from_a_checkpoint(tmp_path: Any) -> None:
    loader = DataLoader(RandomDataset(4, 12), batch_size=3)
    whole, first, second = Adversaries(), Adversaries(), Adversaries()
    Trainer(max_epochs=4, logger=False, discover_callbacks=False).fit(whole, loader)
    trainer = Trainer(max_epochs=2, logger=False, discover_callbacks=False)
    trainer.fit(first, loader)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    Trainer(max_epochs=4, logger=False, discover_callbacks=False).fit(second, loader, ckpt_path=tmp_path / "a.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
