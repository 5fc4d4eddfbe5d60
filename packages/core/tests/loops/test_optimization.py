"""Automatic optimisation against plain PyTorch loops, bit for bit: windows, skipped batches, clipping, overrides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden import Callback, LightningModule, MisconfigurationException, Trainer

Make = Callable[[list[nn.Parameter]], Optimizer]
Clip = Callable[[list[nn.Parameter]], object]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.1),
    "adam": lambda parameters: torch.optim.AdamW(parameters, lr=0.05),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def batches_of(number: int) -> list[Tensor]:
    return list(torch.randn(number, 2, 3, generator=torch.Generator().manual_seed(1)))


class Net(LightningModule):
    """Learns small outputs; returns None for the batches in `skips`."""

    def __init__(self, make: Make = OPTIMIZERS["sgd"], skips: Sequence[int] = ()) -> None:
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


def fit(module: LightningModule, batches: Any, callback: Callback | None = None, **arguments: Any) -> Trainer:
    arguments = {"max_epochs": 2, "num_sanity_val_steps": 0, "callbacks": callback, **arguments}
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    trainer.fit(module, batches)
    return trainer


def by_hand(
    batches: Sequence[Tensor],
    make: Make = OPTIMIZERS["sgd"],
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


# -- windows ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    number=st.integers(1, 9),
    factor=st.integers(1, 5),
    skips=st.sets(st.integers(0, 8)),
    name=st.sampled_from(sorted(OPTIMIZERS)),
    streamed=st.booleans(),
)
def test_accumulation_equals_a_loop_by_hand_wherever_windows_end_and_batches_are_skipped(
    number: int, factor: int, skips: set[int], name: str, streamed: bool
) -> None:
    batches, make = batches_of(number), OPTIMIZERS[name]
    module = Net(make, sorted(skips))
    trainer = fit(module, Stream(batches) if streamed else batches, accumulate_grad_batches=factor)
    reference, steps = by_hand(batches, make, factor, sorted(skips))
    assert_same(module.net, reference)
    assert trainer.global_step == steps


class Stream:
    """Batches without a length."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


def test_the_short_last_window_is_divided_by_the_whole_factor() -> None:
    class Loss(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            self.seen.append(loss.item())

    class One(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self.net(batch).sum() * 0 + 6.0  # type: ignore[no-any-return]

    losses = Loss()
    fit(One(), batches_of(4), losses, accumulate_grad_batches=3, max_epochs=1)
    assert losses.seen == [2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("limit", [2, 5, 7])
def test_a_stream_under_a_limit_has_a_last_window_where_it_ends(limit: int) -> None:
    batches = batches_of(5)
    module = Net()
    trainer = fit(module, Stream(batches), accumulate_grad_batches=3, limit_train_batches=limit)
    reference, steps = by_hand(batches[:limit], factor=3)
    assert_same(module.net, reference)
    assert trainer.global_step == steps


def test_gradients_of_an_open_window_outlive_the_validation_within_it() -> None:
    class Validated(Net):
        validations = 0

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.validations += 1
            self.net(batch)

        def val_dataloader(self) -> list[Tensor]:
            return batches_of(1)

    batches = batches_of(5)
    module = Validated()
    fit(module, batches, accumulate_grad_batches=3, val_check_interval=1)
    assert module.validations == 10
    assert_same(module.net, by_hand(batches, factor=3)[0])


def test_the_factor_may_change_from_epoch_to_epoch() -> None:
    class Grow(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.accumulate_grad_batches = trainer.current_epoch + 1

    trainer = fit(Net(), batches_of(4), Grow(), max_epochs=3)
    assert trainer.global_step == 4 + 2 + 2


def test_a_window_of_nothing_takes_no_step_and_counts_none() -> None:
    batches, module = batches_of(4), Net(skips=[2, 3])
    trainer = fit(module, batches, accumulate_grad_batches=2, max_epochs=1)
    assert trainer.global_step == 1
    assert_same(module.net, by_hand(batches[:2], factor=2, epochs=1)[0])


# -- clipping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(
    ("algorithm", "clip"),
    [
        (None, lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.01)),
        ("norm", lambda parameters: nn.utils.clip_grad_norm_(parameters, 0.01)),
        ("value", lambda parameters: nn.utils.clip_grad_value_(parameters, 0.01)),
    ],
)
def test_clipping_equals_that_of_torch(algorithm: str | None, clip: Clip, factor: int) -> None:
    batches = batches_of(5)
    module = Net()
    fit(module, batches, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm, accumulate_grad_batches=factor)
    clipped, _ = by_hand(batches, factor=factor, clip=clip)
    assert_same(module.net, clipped)
    unclipped, _ = by_hand(batches, factor=factor)
    assert not torch.equal(next(iter(clipped.parameters())), next(iter(unclipped.parameters())))


def test_an_own_configure_gradient_clipping_decides() -> None:
    class Own(Net):
        def configure_gradient_clipping(
            self,
            optimizer: Optimizer,
            gradient_clip_val: int | float | None = None,
            gradient_clip_algorithm: str | None = None,
        ) -> None:
            self.events.append(f"{gradient_clip_val} {gradient_clip_algorithm}")
            self.clip_gradients(optimizer, gradient_clip_val=0.02, gradient_clip_algorithm="value")

    batches = batches_of(3)
    module = Own()
    fit(module, batches, max_epochs=1)
    assert module.events == ["None None"] * 3
    assert_same(module.net, by_hand(batches, epochs=1, clip=lambda p: nn.utils.clip_grad_value_(p, 0.02))[0])

    module = Own()
    fit(module, batches, max_epochs=1, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
    assert module.events == ["0.5 norm"] * 3


def test_hooks_see_gradients_before_they_are_clipped() -> None:
    class Norms(Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
            self.seen.append(max(float(p.grad.abs().max()) for p in pl_module.parameters() if p.grad is not None))

    bare, clipped = Norms(), Norms()
    fit(Net(), batches_of(1), bare, max_epochs=1)
    fit(Net(), batches_of(1), clipped, max_epochs=1, gradient_clip_val=1e-6, gradient_clip_algorithm="value")
    assert bare.seen == clipped.seen


def test_zero_clips_nothing() -> None:
    batches, module = batches_of(3), Net()
    fit(module, batches, gradient_clip_val=0)
    assert_same(module.net, by_hand(batches)[0])


# -- what there is to optimise ------------------------------------------------------------------------------------


def test_without_an_optimizer_steps_are_counted_and_weights_stay() -> None:
    class Own(Net):
        def configure_optimizers(self) -> None:
            return None

    module = Own()
    with pytest.warns(UserWarning, match="returned no optimizer"):
        trainer = fit(module, batches_of(3))
    assert trainer.global_step == 6
    assert_same(module.net, network())


def test_several_optimizers_need_manual_optimisation() -> None:
    class Pair(Net):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.net[0], self.net[2])]

    with pytest.raises(MisconfigurationException, match="returned 2 optimizers, but automatic optimisation drives one"):
        fit(Pair(), batches_of(1))
