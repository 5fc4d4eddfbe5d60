"""GradientAccumulationScheduler against loops by hand, bit for bit; what it refuses; resumed from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden_optim import GradientAccumulationScheduler


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


def batches_of(number: int) -> list[Tensor]:
    return list(torch.randn(number, 2, 3, generator=torch.Generator().manual_seed(1)))


class Net(LightningModule):
    """Learns small outputs with momentum and a scheduler by step; returns None for the batches in `skips`."""

    def __init__(self, skips: Sequence[int] = ()) -> None:
        super().__init__()
        self.net, self.skips = network(), skips
        self.windows: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
        self.windows.append(self.trainer.accumulate_grad_batches)
        if batch_idx in self.skips:
            return None
        loss: Tensor = self.net(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def by_hand(
    batches: Sequence[Tensor], factors: Mapping[int, int], *, by_step: bool, skips: Sequence[int] = (), epochs: int = 3
) -> tuple[nn.Sequential, int]:
    """The loop one would write; returns the network and the number of optimizer steps."""
    net, steps = network(), 0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for epoch in range(epochs):
        rest = list(enumerate(batches))
        while rest:
            factor = 1
            for key in sorted(factors):
                factor = factors[key] if (steps if by_step else epoch) >= key else factor
            window, rest = rest[:factor], rest[factor:]
            used = [batch for index, batch in window if index not in skips]
            optimizer.zero_grad()
            for batch in used:
                loss = net(batch).square().mean()
                (loss if factor == 1 else loss / factor).backward()
            if used:
                optimizer.step()
                scheduler.step()
                steps += 1
    return net, steps


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"logger": False, "max_epochs": 3, "num_sanity_val_steps": 0, "discover_callbacks": False}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **(quiet | given))


def assert_same(module: nn.Module, reference: nn.Module) -> None:
    for (name, ours), theirs in zip(module.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


class Stream:
    """Batches without a length."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class Closing(Net):
    """Has the optimizer call the step."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:  # type: ignore[override]
        optimizer.step(closure=optimizer_closure)


class Validating(Net):
    """Validates within windows."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.net(batch)


FACTORS = st.dictionaries(st.integers(0, 12), st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(1, 9),
    factors=FACTORS,
    by_step=st.booleans(),
    skips=st.sets(st.integers(0, 8), max_size=3),
    streamed=st.booleans(),
)
def test_it_equals_a_loop_by_hand_whatever_changes_when(
    number: int, factors: dict[int, int], by_step: bool, skips: set[int], streamed: bool
) -> None:
    batches, module = batches_of(number), Net(sorted(skips))
    trainer = trainer_with(GradientAccumulationScheduler(factors, "step" if by_step else "epoch"))
    trainer.fit(module, Stream(batches) if streamed else batches)
    reference, steps = by_hand(batches, factors, by_step=by_step, skips=sorted(skips))
    assert_same(module.net, reference)
    assert trainer.global_step == steps


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize(("kind", "given"), [(Closing, {}), (Validating, {"val_check_interval": 1})])
def test_it_equals_a_loop_by_hand_with_a_closure_and_with_validation(
    kind: type[Net], given: dict[str, Any], by_step: bool
) -> None:
    batches, module, factors = batches_of(7), kind(), {0: 2, 2: 3, 4: 1, 9: 2}
    trainer = trainer_with(GradientAccumulationScheduler(factors, "step" if by_step else "epoch"), **given)
    trainer.fit(module, batches, batches_of(2) if given else None)
    reference, steps = by_hand(batches, factors, by_step=by_step)
    assert_same(module.net, reference)
    assert trainer.global_step == steps


def test_a_step_that_the_gradient_scaler_leaves_out_brings_no_change() -> None:
    class Overflowing(Net):
        """The gradients of its first windows are infinite."""

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor | None:
            loss = super().training_step(batch, batch_idx)
            assert loss is not None
            return loss * (math.inf if self.trainer.fit_loop.batches_seen < 2 else 1)

    module = Overflowing()
    trainer = trainer_with(GradientAccumulationScheduler({3: 2}, "step"), precision="16-mixed", max_epochs=1)
    trainer.fit(module, batches_of(9))
    assert module.windows == [1] * 5 + [2] * 4
    assert trainer.global_step == 5


@settings(max_examples=60, deadline=None)
@given(number=st.integers(1, 9), factors=FACTORS, by_step=st.booleans(), max_steps=st.sampled_from([-1, 5]))
def test_the_trainer_knows_how_many_steps_it_will_take(
    number: int, factors: dict[int, int], by_step: bool, max_steps: int
) -> None:
    class Estimating(Net):
        def configure_optimizers(self) -> Any:
            self.estimated = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    scheduler = GradientAccumulationScheduler(factors, "step" if by_step else "epoch")
    trainer, module = trainer_with(scheduler, max_steps=max_steps), Estimating()
    trainer.fit(module, batches_of(number))
    assert module.estimated == trainer.global_step == trainer.estimated_stepping_batches


def test_without_an_end_there_is_no_such_number() -> None:
    trainer = trainer_with(GradientAccumulationScheduler({0: 4}), max_epochs=-1, max_steps=7)
    trainer.fit(Net(), batches_of(9))
    assert trainer.estimated_stepping_batches == trainer.global_step == 7


@pytest.mark.parametrize(
    ("interval", "windows"),
    [("epoch", [1] * 7 + [2] * 7 + [4] * 7), ("step", [1] + [2] * 2 + [4] * 18)],
)
def test_windows_are_whole(interval: Any, windows: list[int]) -> None:
    module = Net()
    trainer = trainer_with(GradientAccumulationScheduler({1: 2, 2: 4}, interval))
    trainer.fit(module, batches_of(7))
    assert module.windows == windows
    assert trainer.accumulate_grad_batches == 1  # as it was given


def test_rows_are_counted_in_steps(tmp_path: Path) -> None:
    from leyden.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    trainer = trainer_with(GradientAccumulationScheduler({1: 3}), logger=logger, log_every_n_steps=2, max_epochs=2)
    trainer.fit(Net(), batches_of(6))  # six windows, then two
    steps = [line.split(",")[0] for line in Path(logger.log_dir, "metrics.csv").read_text().splitlines()[1:]]
    assert steps == ["1", "3", "5", "7"]


@pytest.mark.parametrize("max_steps", [3, 4, 5])
def test_max_steps_ends_at_a_window(max_steps: int) -> None:
    module = Net()
    trainer = trainer_with(GradientAccumulationScheduler({3: 2}, "step"), max_steps=max_steps, max_epochs=-1)
    trainer.fit(module, batches_of(9))
    assert (trainer.global_step, len(module.windows)) == (max_steps, 3 + 2 * (max_steps - 3))


def test_a_second_fit_begins_with_the_first_factor() -> None:
    scheduler = GradientAccumulationScheduler({1: 3})
    trainer = trainer_with(scheduler)
    for _ in range(2):
        trainer.fit_loop.epoch = 0
        module = Net()
        trainer.fit(module, batches_of(4))
        assert module.windows == [1] * 4 + [3] * 8


def test_other_entry_points_have_nothing_to_accumulate() -> None:
    class Predicting(Net):
        def predict_step(self, batch: Tensor, batch_idx: int) -> Any:
            return self.net(batch)

    assert trainer_with(GradientAccumulationScheduler({0: 2})).predict(Predicting(), batches_of(2)) is not None


# -- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (({},), "scheduling={}: expected factors by epoch (or step)"),
        ((4,), "scheduling=4: expected factors by epoch (or step)"),
        (({-1: 2},), "its key -1 is no epoch or step (int >= 0)"),
        (({1.0: 2},), "its key 1.0 is no epoch or step (int >= 0)"),
        (({"one": 2},), "its key 'one' is no epoch or step (int >= 0)"),
        (({0: 0},), "its factor 0 is no number of batches (int >= 1)"),
        (({0: True},), "its factor True is no number of batches (int >= 1)"),
        (({0: 2}, "steps"), "interval='steps': expected 'epoch' or 'step'. Did you mean 'step'?"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_once(arguments: Any, told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        GradientAccumulationScheduler(*arguments)
    assert str(error.value).startswith("GradientAccumulationScheduler(...) cannot work:\n  - ")
    assert told in str(error.value)


def test_what_it_was_given_can_be_read_back() -> None:
    scheduler = GradientAccumulationScheduler({"8": 4, 2: 2})  # type: ignore[dict-item]  # as in a configuration file
    assert (scheduler.scheduling, scheduler.epochs, scheduler.interval) == ({0: 1, 2: 2, 8: 4}, [0, 2, 8], "epoch")
    assert [scheduler.get_accumulate_grad_batches(epoch) for epoch in (0, 1, 2, 7, 8, 99)] == [1, 1, 2, 2, 4, 4]
    assert scheduler.going_to_accumulate_grad_batches()
    assert not GradientAccumulationScheduler({3: 1}).going_to_accumulate_grad_batches()


def test_a_trainer_with_a_factor_of_its_own_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(accumulate_grad_batches=2, callbacks=\[Gradient"):
        trainer_with(GradientAccumulationScheduler({4: 2}), accumulate_grad_batches=2)

    class Bringing(Net):
        def configure_callbacks(self) -> list[Callback]:
            return [GradientAccumulationScheduler({4: 2})]

    with pytest.raises(MisconfigurationException, match="contradict each other"):
        trainer_with(accumulate_grad_batches=2).fit(Bringing(), batches_of(2))


def test_two_of_them_are_an_error() -> None:
    by_epoch, by_step = GradientAccumulationScheduler({4: 2}), GradientAccumulationScheduler({1: 2}, "step")
    by_step.name = "by step"
    with pytest.raises(MisconfigurationException, match="put what they say into one scheduling"):
        trainer_with(by_epoch, by_step)


def test_manual_optimisation_is_an_error() -> None:
    class Manual(Net):
        automatic_optimization = False

    with pytest.raises(MisconfigurationException, match="has automatic_optimization = False; count batches"):
        trainer_with(GradientAccumulationScheduler({4: 2})).fit(Manual(), batches_of(2))


def test_lbfgs_is_an_error_before_the_first_step() -> None:
    class SecondOrder(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    module = SecondOrder()
    with pytest.raises(MisconfigurationException, match="LBFGS evaluates the loss several times a step"):
        trainer_with(GradientAccumulationScheduler({99: 2})).fit(module, batches_of(2))
    assert module.windows == []
    trainer_with(GradientAccumulationScheduler({99: 1})).fit(module, batches_of(2))


# -- resume -------------------------------------------------------------------------------------------------------


class Cut(Exception):
    """Ends a run as a crash would."""


class SaveAndCut(Callback):
    """Saves in the `at`-th call of `on_train_batch_end`, and cuts the run there."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.left = path, at

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.save_checkpoint(self.path)
            raise Cut


class CutAndSave(Callback):
    """Raises in the `at`-th call of a hook, and saves because of that."""

    saves_on_exception = True

    def __init__(self, path: Path, at: int, hook: str) -> None:
        self.path, self.left, self.hook = path, at, hook

    def _count(self, hook: str) -> None:
        self.left -= hook == self.hook
        if hook == self.hook and self.left == 0:
            raise Cut

    def on_train_batch_end(self, *_: Any) -> None:
        self._count("batch_end")

    def on_after_backward(self, *_: Any) -> None:
        self._count("backward")

    def on_train_epoch_start(self, *_: Any) -> None:
        self._count("epoch_start")

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.path)


def run(interval: Any, *callbacks: Callback, ckpt_path: Path | None = None, seed: int = 0) -> dict[str, Any]:
    torch.manual_seed(seed)
    scheduler = GradientAccumulationScheduler({0: 2, 1: 3, 3: 1, 5: 4}, interval)
    trainer, module = trainer_with(scheduler, *callbacks), Net()
    trainer.fit(module, batches_of(7), ckpt_path=ckpt_path)
    return {
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "optimizer": repr(trainer.optimizers[0].state_dict()),
        "state": scheduler.state_dict(),
        "steps": (trainer.global_step, trainer.fit_loop.batches_that_stepped),
    }


@pytest.mark.parametrize("interval", ["epoch", "step"])
@pytest.mark.parametrize("how", ["saved", "batch_end", "backward", "epoch_start"])
def test_a_run_that_is_cut_anywhere_goes_on_exactly(tmp_path: Path, interval: Any, how: str) -> None:
    whole = run(interval)
    for at in range(1, 4 if how == "epoch_start" else 22):
        path = tmp_path / f"{at}.ckpt"
        cut = SaveAndCut(path, at) if how == "saved" else CutAndSave(path, at, how)
        with pytest.raises(Cut):
            run(interval, cut)
        assert run(interval, ckpt_path=path, seed=at) == whole, at
