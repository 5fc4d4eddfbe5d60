"""Closures and overridden steps of optimisation, against plain PyTorch loops, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden import LightningModule, MisconfigurationException, Trainer

Make = Callable[[list[nn.Parameter]], Optimizer]
Clip = Callable[[list[nn.Parameter]], object]


def sgd(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def batches_of(number: int) -> list[Tensor]:
    return list(torch.randn(number, 2, 3, generator=torch.Generator().manual_seed(1)))


class Net(LightningModule):
    """Learns small outputs; returns None for the batches in `skips`."""

    def __init__(self, make: Make = sgd, skips: Sequence[int] = ()) -> None:
        super().__init__()
        self.net = network()
        self.make, self.skips = make, skips
        self.events: list[str] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        if batch_idx in self.skips:
            return None
        loss: Tensor = self.net(batch).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return self.make(list(self.parameters()))


def fit(module: LightningModule, batches: Any, **arguments: Any) -> Trainer:
    arguments = {"max_epochs": 2, "num_sanity_val_steps": 0, **arguments}
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    trainer.fit(module, batches)
    return trainer


def by_hand(
    batches: Sequence[Tensor],
    make: Make = sgd,
    factor: int = 1,
    skips: Sequence[int] = (),
    epochs: int = 2,
    clip: Clip = lambda parameters: None,
) -> tuple[nn.Sequential, int]:
    """The loop one would write; returns the network and the number of optimizer steps."""
    net, steps = network(), 0
    parameters = list(net.parameters())
    optimizer = make(parameters)
    for _ in range(epochs):
        fresh = True
        for index, batch in enumerate(batches):
            if index not in skips:
                if fresh:
                    optimizer.zero_grad()
                    fresh = False
                (net(batch).square().mean() / factor).backward()
            if ((index + 1) % factor == 0 or index + 1 == len(batches)) and not fresh:
                clip(parameters)
                optimizer.step()
                steps += 1
                fresh = True
    return net, steps


def assert_same(module: nn.Module, reference: nn.Module) -> None:
    for (name, ours), theirs in zip(module.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


# -- LBFGS and closures -------------------------------------------------------------------------------------------


def lbfgs(parameters: list[nn.Parameter]) -> Optimizer:
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=4)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_lbfgs_equals_a_loop_by_hand(clip: float | None) -> None:
    batches, module = batches_of(3), Net(lbfgs)
    trainer = fit(module, batches, gradient_clip_val=clip)
    net = network()
    parameters = list(net.parameters())
    optimizer = lbfgs(parameters)
    for _ in range(2):
        for batch in batches:

            def closure(batch: Tensor = batch) -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = net(batch).square().mean()
                loss.backward()  # type: ignore[no-untyped-call]
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                return loss

            optimizer.step(closure)  # type: ignore[arg-type]
    assert_same(module.net, net)
    assert trainer.global_step == 6


def test_lbfgs_leaves_out_a_skipped_batch() -> None:
    batches, module = batches_of(4), Net(lbfgs, skips=[0, 2])
    trainer = fit(module, batches, max_epochs=1)
    other = Net(lbfgs)
    fit(other, [batches[1], batches[3]], max_epochs=1)
    assert_same(module.net, other.net)
    assert trainer.global_step == 2


def test_lbfgs_over_a_window_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"batches=2\): LBFGS evaluates the loss several"):
        fit(Net(lbfgs), batches_of(2), accumulate_grad_batches=2)


class Twice(torch.optim.SGD):
    """Evaluates an optional closure twice, as sharpness-aware minimisation does."""

    def step(self, closure: Any = None) -> Any:
        if closure is not None:
            with torch.enable_grad():
                closure()
        return super().step(closure)


class WithClosure(Net):
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        self.events.append(f"{epoch} {batch_idx}")
        optimizer.step(closure=optimizer_closure)


def test_each_evaluation_of_a_closure_starts_from_cleared_gradients() -> None:
    batches, module = batches_of(3), WithClosure(lambda parameters: Twice(parameters, lr=0.1))
    trainer = fit(module, batches)
    assert_same(module.net, by_hand(batches, lambda parameters: torch.optim.SGD(parameters, lr=0.1))[0])
    assert trainer.global_step == 6


def test_a_second_evaluation_of_a_closure_over_a_window_is_refused() -> None:
    module = WithClosure(lambda parameters: Twice(parameters, lr=0.1))
    with pytest.raises(MisconfigurationException, match=r"Twice evaluates the loss several times"):
        fit(module, batches_of(2), accumulate_grad_batches=2)


# -- overrides ----------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(number=st.integers(1, 7), factor=st.integers(1, 3), skips=st.sets(st.integers(0, 6)))
def test_an_own_optimizer_step_takes_the_same_steps(number: int, factor: int, skips: set[int]) -> None:
    batches, module = batches_of(number), WithClosure(skips=sorted(skips))
    trainer = fit(module, batches, accumulate_grad_batches=factor, gradient_clip_val=0.05)
    reference, steps = by_hand(
        batches, factor=factor, skips=sorted(skips), clip=lambda p: nn.utils.clip_grad_norm_(p, 0.05)
    )
    assert_same(module.net, reference)
    assert trainer.global_step == steps
    ends = [index for index in range(number) if (index + 1) % factor == 0 or index + 1 == number]
    assert module.events == [f"{epoch} {index}" for epoch in range(2) for index in ends]


@pytest.mark.parametrize("factor", [1, 2])
def test_a_closure_called_by_hand_before_the_step_does_the_same(factor: int) -> None:
    class ByHand(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer_closure()
            optimizer.step()

    batches, module = batches_of(5), ByHand(skips=[1, 2, 3])
    fit(module, batches, accumulate_grad_batches=factor)
    assert_same(module.net, by_hand(batches, factor=factor, skips=[1, 2, 3])[0])


def test_the_default_optimizer_step_may_be_called_from_an_own_one() -> None:
    class Warm(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (batch_idx + 1) / 3
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    batches, module = batches_of(3), Warm()
    fit(module, batches, max_epochs=1)
    net = network()
    optimizer = sgd(list(net.parameters()))
    for index, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.05 * (index + 1) / 3
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()
    assert_same(module.net, net)


def test_a_step_is_counted_when_its_hook_has_returned() -> None:
    """A warm-up by ``trainer.global_step`` after ``optimizer.step`` then is that of its first step, as in Lightning."""
    seen: list[tuple[int, int]] = []

    class Warm(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            before = self.trainer.global_step
            optimizer.step(closure=optimizer_closure)
            seen.append((before, self.trainer.global_step))

    class Breaks(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            raise ValueError("broken")

    trainer = fit(Warm(), batches_of(2))
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert trainer.global_step == 4
    with pytest.raises(ValueError, match="broken"):
        fit(Breaks(), batches_of(2))


@pytest.mark.parametrize("way", ["skips", "bare"])
def test_one_call_of_optimizer_step_counts_as_one_step(way: str) -> None:
    """Also where it chooses not to step, or steps the optimizer under the wrapper: `max_steps` must be reached."""

    class Odd(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if way == "bare":
                optimizer.optimizer.step(optimizer_closure)
            else:
                optimizer_closure()

    batches, module = batches_of(3), Odd()
    trainer = fit(module, batches, max_epochs=-1, max_steps=4)
    assert (trainer.global_step, trainer.current_epoch) == (4, 2)
    if way == "skips":
        assert_same(module.net, network())


def test_an_optimizer_step_that_does_not_call_the_closure_is_an_error() -> None:
    class Forgets(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step()

    with pytest.raises(
        MisconfigurationException,
        match=r"Forgets\.optimizer_step returned without calling.*step\(closure=optimizer_closure\)",
    ):
        fit(Forgets(), batches_of(2))


def test_own_backward_and_zero_grad_replace_the_defaults() -> None:
    class Own(Net):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            self.events.append("backward")
            (loss * 2).backward()  # type: ignore[no-untyped-call]

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
            self.events.append(f"zero_grad {epoch} {batch_idx}")
            optimizer.zero_grad(set_to_none=False)

    batches, module = batches_of(4), Own()
    fit(module, batches, accumulate_grad_batches=2, max_epochs=1)
    assert module.events == ["zero_grad 0 0", "backward", "backward", "zero_grad 0 2", "backward", "backward"]
    net = network()
    optimizer = sgd(list(net.parameters()))
    for first, second in (batches[:2], batches[2:]):
        optimizer.zero_grad(set_to_none=False)
        for batch in (first, second):
            (net(batch).square().mean() / 2 * 2).backward()
        optimizer.step()
    assert_same(module.net, net)


def test_the_zero_grad_of_an_optimizer_class_is_called() -> None:
    class Counting(torch.optim.SGD):
        cleared = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.cleared += 1
            super().zero_grad(set_to_none)

    optimizers: list[Counting] = []

    def make(parameters: list[nn.Parameter]) -> Optimizer:
        optimizers.append(Counting(parameters, lr=0.1))
        return optimizers[-1]

    fit(Net(make), batches_of(3))
    assert optimizers[0].cleared == 6
