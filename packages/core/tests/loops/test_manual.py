"""Manual optimisation: several optimizers, toggling, closures, clipping; against plain PyTorch loops, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.runtime.wrapped_optimizer import LightningOptimizer


def batches_of(number: int) -> list[Tensor]:
    return list(torch.randn(number, 2, 3, generator=torch.Generator().manual_seed(1)))


def networks() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(3, 3), nn.Linear(3, 1)


class Pair(LightningModule):
    """A generator and a critic, each with an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = networks()
        self.events: list[Any] = []

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=0.01),
            torch.optim.SGD(self.critic.parameters(), lr=0.1),
        ]


def fit(module: LightningModule, batches: Any, callback: Callback | None = None, **arguments: Any) -> Trainer:
    arguments = {"max_epochs": 2, "callbacks": callback, **arguments}
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    trainer.fit(module, batches)
    return trainer


def assert_same(module: nn.Module, reference: nn.Module) -> None:
    for (name, ours), theirs in zip(module.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def test_two_optimizers_with_toggling_equal_a_loop_by_hand() -> None:
    class Adversarial(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            first, second = self.optimizers()
            self.toggle_optimizer(first)
            self.events.append([p.requires_grad for p in self.parameters()])
            first.zero_grad()
            self.manual_backward(self.critic(self.generator(batch)).mean())
            first.step()
            self.untoggle_optimizer(first)
            with self.toggled_optimizer(second):
                self.events.append([p.requires_grad for p in self.parameters()])
                second.zero_grad()
                self.manual_backward(-self.critic(self.generator(batch)).mean())
                second.step()
            self.events.append([p.requires_grad for p in self.parameters()])

    batches, module = batches_of(3), Adversarial()
    trainer = fit(module, batches)
    assert module.events[:3] == [[True, True, False, False], [False, False, True, True], [True] * 4]

    generator, critic = networks()
    one, two = torch.optim.Adam(generator.parameters(), lr=0.01), torch.optim.SGD(critic.parameters(), lr=0.1)
    for _ in range(2):
        for batch in batches:
            one.zero_grad()
            critic(generator(batch)).mean().backward()
            one.step()
            two.zero_grad()
            (-critic(generator(batch)).mean()).backward()
            two.step()
    assert_same(module.generator, generator)
    assert_same(module.critic, critic)
    assert trainer.global_step == 12


def test_toggle_model_toggles_within_its_block() -> None:
    class Toggled(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                with optimizer.toggle_model(sync_grad=batch_idx == 0):
                    self.events.append([p.requires_grad for p in self.parameters()])
                    self.manual_backward(self.critic(self.generator(batch)).sum())
                    optimizer.step()
                    optimizer.zero_grad()

    module = Toggled()
    fit(module, batches_of(2), max_epochs=1)
    assert module.events == [[True, True, False, False], [False, False, True, True]] * 2
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_closures_of_manual_steps_are_evaluated_by_the_optimizer() -> None:
    class Closures(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            first, second = self.optimizers()

            def closure() -> Tensor:
                first.zero_grad()
                second.zero_grad()
                loss: Tensor = self.critic(self.generator(batch)).square().mean()
                self.manual_backward(loss)
                return loss

            self.events.append(float(first.step(closure=closure).detach()))
            self.events.append(second.step())

    batches, module = batches_of(2), Closures()
    trainer = fit(module, batches, max_epochs=1)
    generator, critic = networks()
    one, two = torch.optim.Adam(generator.parameters(), lr=0.01), torch.optim.SGD(critic.parameters(), lr=0.1)
    losses: list[Any] = []
    for batch in batches:
        one.zero_grad()
        two.zero_grad()
        loss = critic(generator(batch)).square().mean()
        loss.backward()
        one.step()
        two.step()
        losses += [float(loss.detach()), None]
    assert_same(module.generator, generator)
    assert_same(module.critic, critic)
    assert module.events == losses
    assert trainer.global_step == 4


def test_lbfgs_works_by_its_closure() -> None:
    class Search(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = networks()[1]

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            optimizer = self.optimizers()

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = self.net(batch).square().mean()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure)

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.net.parameters(), max_iter=3)

    batches, module = batches_of(2), Search()
    trainer = fit(module, batches)
    net = networks()[1]
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)
    for batch in batches * 2:

        def closure(batch: Tensor = batch) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = net(batch).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert_same(module.net, net)
    assert trainer.global_step == 4


def test_accumulation_and_clipping_are_done_in_the_step() -> None:
    class Accumulating(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            self.manual_backward(self.critic(self.generator(batch)).square().mean() / 2)
            if (batch_idx + 1) % 2 == 0:
                for optimizer, algorithm in zip(self.optimizers(), ("norm", "value"), strict=True):
                    self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
                    optimizer.step()
                    optimizer.zero_grad()

    batches, module = batches_of(4), Accumulating()
    trainer = fit(module, batches, max_epochs=1)
    generator, critic = networks()
    one, two = torch.optim.Adam(generator.parameters(), lr=0.01), torch.optim.SGD(critic.parameters(), lr=0.1)
    for index, batch in enumerate(batches):
        (critic(generator(batch)).square().mean() / 2).backward()
        if index % 2:
            nn.utils.clip_grad_norm_(generator.parameters(), 0.01)
            nn.utils.clip_grad_value_(critic.parameters(), 0.01)
            one.step()
            two.step()
            one.zero_grad()
            two.zero_grad()
    assert_same(module.generator, generator)
    assert_same(module.critic, critic)
    assert trainer.global_step == 4


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_is_the_same_in_mixed_half_precision(algorithm: str) -> None:
    class Clipped(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(0.01 * self.critic(self.generator(batch)).float().square().mean())
                self.clip_gradients(optimizer, 0.001, algorithm)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=10.0) for part in (self.generator, self.critic)]

    whole, mixed = Clipped(), Clipped()
    fit(whole, batches_of(3))
    fit(mixed, batches_of(3), precision="16-mixed")
    for ours, theirs in zip(mixed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)


def test_a_generator_and_a_critic_take_turns_in_mixed_half_precision() -> None:
    """The critic is stepped in batches in which it has no gradients too."""

    class Turns(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            generator, critic = self.optimizers()
            for optimizer in (generator, critic):
                optimizer.zero_grad()
            active = generator if batch_idx % 2 else critic
            with self.toggled_optimizer(active):
                self.manual_backward(0.01 * self.critic(self.generator(batch)).float().square().mean())
            generator.step()
            critic.step()

    module = Turns()
    trainer = fit(module, batches_of(4), precision="16-mixed", max_epochs=1)
    assert trainer.global_step == 8
    generator, critic = networks()
    assert not torch.equal(generator.weight, module.generator.weight)
    assert not torch.equal(critic.weight, module.critic.weight)


class Stepping(Pair):
    """Steps both optimizers in each batch, and the schedulers of both at each epoch's end."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.critic(self.generator(batch)).square().mean())
            optimizer.step()
        return self.returned(batch)

    def returned(self, batch: Tensor) -> Any:
        return None


@pytest.mark.parametrize("max_steps", [3, 4])
def test_max_steps_ends_the_epoch_also_when_two_steps_pass_it(max_steps: int) -> None:
    trainer = fit(Stepping(), batches_of(5), max_epochs=-1, max_steps=max_steps)
    assert trainer.global_step == 4
    assert trainer.fit_loop.batches_seen == 2


def test_schedulers_are_the_modules_to_step() -> None:
    class Scheduled(Stepping):
        def configure_optimizers(self) -> Any:
            optimizers = super().configure_optimizers()
            return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 1) for optimizer in optimizers]

        def on_train_epoch_end(self) -> None:
            first, _ = self.lr_schedulers()
            first.step()

    trainer = fit(Scheduled(), batches_of(2), max_epochs=3)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == [pytest.approx(1e-5), 0.1]


@pytest.mark.parametrize("kind", ["none", "tensor", "dict", "number"])
def test_what_the_step_returns_reaches_the_hooks_detached(kind: str) -> None:
    class Returning(Stepping):
        def returned(self, batch: Tensor) -> Any:
            value = self.generator(batch).sum()
            return {"none": None, "tensor": value, "dict": {"value": value, "name": "a"}, "number": 3}[kind]

    class Outputs(Callback):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.seen.append(outputs)

    outputs = Outputs()
    if kind == "number":
        with pytest.raises(MisconfigurationException, match=r"training_step returned 3 \(int\); under manual"):
            fit(Returning(), batches_of(1), outputs)
        return
    fit(Returning(), batches_of(1), outputs, max_epochs=1)
    [seen] = outputs.seen
    assert set(seen) == {"none": set(), "tensor": {"loss"}, "dict": {"value", "name"}}[kind]
    assert not any(value.requires_grad for value in seen.values() if isinstance(value, Tensor))


def test_every_step_has_its_hooks_in_order() -> None:
    class Order(Callback):
        def __init__(self) -> None:
            self.events: list[str] = []

        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            self.events.append(f"before_backward {trainer.global_step}")

        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.events.append(f"after_backward {trainer.global_step}")

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            self.events.append(f"before_step {trainer.optimizers.index(optimizer)} {trainer.global_step}")

    order = Order()
    fit(Stepping(), batches_of(1), order, max_epochs=1)
    assert order.events == [
        *("before_backward 0", "after_backward 0", "before_step 0 0"),
        *("before_backward 1", "after_backward 1", "before_step 1 1"),
    ]


def test_bare_optimizers_step_without_being_counted() -> None:
    class Bare(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            wrapped, bare = self.optimizers(), self.optimizers(use_pl_optimizer=False)
            assert all(isinstance(optimizer, LightningOptimizer) for optimizer in wrapped)
            assert [optimizer.optimizer for optimizer in wrapped] == bare
            self.manual_backward(self.critic(self.generator(batch)).sum())
            wrapped[0].step()
            bare[1].step()

    trainer = fit(Bare(), batches_of(2), max_epochs=1)
    assert trainer.global_step == 2


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [({"gradient_clip_val": 1.0}, "self.clip_gradients"), ({"accumulate_grad_batches": 2}, "count batches")],
)
def test_settings_of_automatic_optimisation_are_refused(arguments: dict[str, Any], fix: str) -> None:
    with pytest.raises(MisconfigurationException, match=fix):
        fit(Stepping(), batches_of(1), **arguments)


def test_a_closure_that_is_no_function_is_an_error() -> None:
    class Wrong(Pair):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            self.optimizers()[0].step(closure=torch.zeros(()))

    with pytest.raises(MisconfigurationException, match=r"step\(closure=tensor\(0\.\)\): expected a callable"):
        fit(Wrong(), batches_of(1))
