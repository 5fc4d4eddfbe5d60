"""What is copied, and what is told, where an exception may cut a run; test_resume_exceptions goes on from there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, Trainer
from leyden.state.checkpoint import dump


class Cut(Exception):
    """Ends a run as a crash would."""


class Saver(Callback):
    saves_on_exception = True

    def __init__(self) -> None:
        self.checkpoint: dict[str, Any] = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.checkpoint = dump(trainer)


class Noise(Callback):
    def make_noise(self, trainer: Trainer, *_: Any) -> None:
        with torch.no_grad():
            for weight in trainer.lightning_module.parameters():
                weight.add_(1)


class Fail(Callback):
    def fail(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step:
            raise Cut


HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_train_epoch_end", "on_validation_batch_end")


def in_hook(base: type[Callback], hook: str, method: Callable[..., None], **attributes: Any) -> Callback:
    made: Callback = type(base.__name__, (base,), {hook: method, **attributes})()
    return made


class Net(LightningModule):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.layer, self.options = nn.Linear(4, 1), options
        self.after_step: Callable[[], None] | None = None

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).pow(2).mean()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(self.parameters(), **self.options)
        if self.after_step is not None:
            optimizer.register_step_post_hook(lambda *_: self.after_step and self.after_step())
        return optimizer


def fit(module: LightningModule, *callbacks: Callback, raises: type[BaseException] = Cut) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=list(callbacks), discover_callbacks=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    batches = [torch.full((2, 4), float(number + 1)) for number in range(3)]
    with pytest.raises(raises):
        trainer.fit(module, batches, batches)
    return trainer


@pytest.mark.parametrize("hook", HOOKS)
def test_weights_changed_without_a_word_are_told_of(hook: str) -> None:
    saver = Saver()
    callbacks = in_hook(Noise, hook, Noise.make_noise), in_hook(Fail, hook, Fail.fail), saver
    with pytest.warns(UserWarning, match=r"is not exact: it repeats .*Set `changes_weights = True` on the callback"):
        fit(Net(), *callbacks)
    assert saver.checkpoint


@pytest.mark.parametrize("hook", HOOKS)
def test_weights_are_saved_as_before_a_hook_that_says_it_changes_them(hook: str) -> None:
    saver, seen = Saver(), []

    def see(self: Any, trainer: Trainer, *_: Any) -> None:
        seen.append({name: one.clone() for name, one in trainer.lightning_module.state_dict().items()})

    noise = in_hook(Noise, hook, Noise.make_noise, changes_weights=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Net(), in_hook(Callback, hook, see), noise, in_hook(Fail, hook, Fail.fail), saver)
    assert saver.checkpoint["state_dict"].keys() == seen[-1].keys()
    assert all(torch.equal(one, seen[-1][name]) for name, one in saver.checkpoint["state_dict"].items())


def test_weights_behind_two_names_are_saved_as_before_under_both() -> None:
    class Tied(Net):
        changes_weights = True

        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(4, 1)
            self.other.weight = self.layer.weight

    saver, module = Saver(), Tied()
    before = module.layer.weight.detach().clone()
    noise = in_hook(Noise, "on_train_batch_start", Noise.make_noise)

    def fail(self: Any, *_: Any) -> None:
        raise Cut

    fit(module, noise, in_hook(Fail, "on_train_batch_start", fail), saver)
    assert torch.equal(saver.checkpoint["state_dict"]["layer.weight"], before)
    assert torch.equal(saver.checkpoint["state_dict"]["other.weight"], before)


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}])
def test_a_failure_after_the_optimizer_s_step_is_told_of(options: dict[str, Any]) -> None:
    """A fused step leaves no trace in the weights' versions; its end is noticed, if no hook before that fails."""

    class Overridden(Net):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            raise Cut

    saver = Saver()
    with pytest.warns(
        UserWarning, match=r"it repeats the batch, which had changed weights .* on Overridden where its own"
    ):
        fit(Overridden(**options), saver)
    assert saver.checkpoint["global_step"] == 0


@pytest.mark.parametrize("declared", [False, True])
def test_an_interrupt_within_the_optimizer_s_step(declared: bool) -> None:
    class HalfWay(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            with torch.no_grad():
                self.param_groups[0]["params"][0].add_(1)
            raise KeyboardInterrupt

    class Interrupted(Net):
        changes_weights = declared

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return HalfWay(self.parameters(), lr=0.1)

    saver, module = Saver(), Interrupted()
    before = module.layer.weight.detach().clone()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(module, saver, raises=KeyboardInterrupt)
    assert ["it repeats the batch" in str(one.message) for one in caught] == [True] * (not declared)
    assert torch.equal(saver.checkpoint["state_dict"]["layer.weight"], before) is declared


def test_weights_are_copied_at_a_batch_s_first_step_and_where_nothing_steps_not_at_all() -> None:
    copied: list[list[bool]] = []

    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            here = [self.has_copy()]
            if batch_idx == 1:
                self.optimizers().step()
                here.append(self.has_copy())
                first = self.trainer.fit_loop.marks.boundary.weights["layer.weight"]  # type: ignore[union-attr]
                self.optimizers().step()
                here.append(first is self.trainer.fit_loop.marks.boundary.weights["layer.weight"])  # type: ignore[union-attr]
            copied.append(here)
            if batch_idx == 2:
                raise Cut
            return loss

        def has_copy(self) -> bool:
            boundary = self.trainer.fit_loop.marks.boundary
            return boundary is not None and "layer.weight" in boundary.weights

    fit(Manual(), Saver())
    assert copied == [[False], [False, True, True], [False]]


def test_nothing_is_marked_and_no_optimizer_watched_unless_a_callback_saves_on_exceptions() -> None:
    hooks: list[int] = []

    class Looking(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            [optimizer] = self.trainer.optimizers
            hooks.append(len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks))
            assert (self.trainer.fit_loop.marks.boundary is not None) is bool(hooks[-1])
            if batch_idx == 1:
                raise Cut
            return super().training_step(batch, batch_idx)

    fit(Looking())
    trainer = fit(Looking(), Saver())
    assert hooks == [0, 0, 1, 1]
    assert not trainer.optimizers[0]._optimizer_step_post_hooks
