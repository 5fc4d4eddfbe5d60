"""LearningRateFinder: the search against a loop by hand, what it sets, whom it calls, and what it refuses."""

from __future__ import annotations

import copy
import logging
import math
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import LearningRateMonitor, ModelCheckpoint
from leyden.errors import MisconfigurationException, SIGTERMException
from leyden_optim import EarlyStopping, GradientAccumulationScheduler, LearningRateFinder

BATCHES = list(torch.linspace(-1, 1, 120).view(10, 3, 4))


class Net(LightningModule):
    def __init__(self, lr: float = 0.02) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.layers(batch).sub(batch.sum(1, keepdim=True)).square().mean()
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def make(*callbacks: Callback, **arguments: Any) -> Trainer:
    arguments = {"max_epochs": 1, "logger": False} | arguments
    return Trainer(accelerator="cpu", callbacks=callbacks, discover_callbacks=False, **arguments)


def by_hand(finder: LearningRateFinder, accumulate: int = 1) -> dict[str, list[float]]:
    """Return rates and smoothed losses as a plain loop gives them."""
    net, rates, losses, total, lowest = Net(), [], [], 0.0, math.inf
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
    windows = [BATCHES[start : start + accumulate] for start in range(0, 10, accumulate)]
    n = finder.num_training_steps
    for step in range(n):
        if finder.mode == "linear":
            rate = finder.min_lr + step / (n - 1) * (finder.max_lr - finder.min_lr)
        else:
            rate = finder.min_lr * (finder.max_lr / finder.min_lr) ** (step / (n - 1))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        value = 0.0
        for batch in windows[step % len(windows)]:
            loss = net.loss(batch) / accumulate
            loss.backward()  # type: ignore[no-untyped-call]
            value += float(loss.detach())
        optimizer.step()
        total = 0.98 * total + (1 - 0.98) * value
        rates.append(rate)
        losses.append(total / (1 - 0.98 ** (step + 1)))
        if finder.early_stop_threshold is not None:
            if step and losses[-1] > finder.early_stop_threshold * lowest:
                break
            lowest = min(lowest, losses[-1])
    return {"lr": rates, "loss": losses}


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"mode": "linear", "min_lr": 0.001, "max_lr": 0.3},
        {"min_lr": 1e-4, "num_training_steps": 37, "early_stop_threshold": None},
        {"max_lr": 0.01},
    ],
)
def test_it_is_a_loop_by_hand_with_rising_rates(accumulate: int, arguments: dict[str, Any]) -> None:
    finder = LearningRateFinder(**arguments)
    trainer, module = make(finder, accumulate_grad_batches=accumulate), Net()
    trainer.fit(module, BATCHES)
    assert finder.optimal_lr is not None
    assert finder.optimal_lr.results == by_hand(finder, accumulate)
    stops = finder.early_stop_threshold is not None and finder.max_lr > 0.01
    assert module.lr == finder.optimal_lr.suggestion() == trainer.optimizers[0].param_groups[0]["lr"]
    assert (len(finder.optimal_lr.results["lr"]) < finder.num_training_steps) == stops


def test_steps_have_the_batches_that_a_scheduler_of_accumulation_says() -> None:
    finder = LearningRateFinder()
    make(finder, GradientAccumulationScheduler({0: 4, 1: 2})).fit(Net(), BATCHES)
    assert finder.optimal_lr is not None
    assert finder.optimal_lr.results == by_hand(finder, 4)


def test_a_loss_that_is_not_finite_ends_the_search_unless_there_is_no_threshold() -> None:
    class Breaks(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            return super().training_step(batch, batch_idx) * (math.nan if rate > 0.1 else 1.0)

    for threshold, length in ((4.0, 88), (None, 100)):
        finder = LearningRateFinder(early_stop_threshold=threshold)
        make(finder).fit(Breaks(), BATCHES)
        assert finder.optimal_lr is not None
        assert len(finder.optimal_lr.results["loss"]) == length
        assert math.isnan(finder.optimal_lr.results["loss"][-1])
        assert 0 < (finder.optimal_lr.suggestion() or 0) < 0.1


def test_steps_that_are_left_out_have_no_loss_and_take_their_rate() -> None:
    class Skips(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return None if batch_idx % 3 == 1 else super().training_step(batch, batch_idx)

    finder = LearningRateFinder(num_training_steps=40, early_stop_threshold=None)
    make(finder).fit(Skips(), BATCHES)
    assert finder.optimal_lr is not None
    left = [step for step in range(40) if step % 10 % 3 != 1]
    assert finder.optimal_lr.results["lr"] == [finder.optimal_lr.rate_at(step) for step in left]


def test_an_optimizer_with_a_closure_is_searched_too() -> None:
    class Lbfgs(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=self.lr, max_iter=2)

    finder, module = LearningRateFinder(1e-4, num_training_steps=20), Lbfgs()
    trainer = make(finder)
    trainer.fit(module, BATCHES)
    assert finder.optimal_lr is not None
    assert trainer.optimizers[0].param_groups[0]["lr"] == module.lr == finder.optimal_lr.suggestion()


# -- what is set ----------------------------------------------------------------------------------------------------


class Groups(Net):
    """Has an optimizer that knows nothing of the attribute, with rates of which one is a tensor, and a scheduler."""

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": self.layers[0].parameters(), "lr": 0.5},
            {"params": self.layers[2].parameters(), "lr": torch.tensor(0.25)},
        ]
        optimizer = torch.optim.AdamW(groups, foreach=False)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (epoch + 1))]


def test_every_group_gets_the_rate_where_the_attribute_is_not_used() -> None:
    finder, module, rates = LearningRateFinder(1e-4, num_training_steps=30), Groups(), []

    class Watches(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            rates.append([float(group["lr"]) for group in trainer.optimizers[0].param_groups])

    make(finder, Watches(), max_epochs=3).fit(module, BATCHES)
    found = module.lr
    assert finder.optimal_lr is not None
    assert found == finder.optimal_lr.suggestion()
    expected = [[found / (epoch + 1)] * 2 for epoch in range(3) for _ in BATCHES]
    assert [rate for row in rates for rate in row] == pytest.approx([rate for row in expected for rate in row])


class Warm(Net):
    """Warms up from a rate of 0, by steps."""

    uses = True

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr if self.uses else 0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 20)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Fixed(Warm):
    uses = False


@pytest.mark.parametrize("module", [Warm(), Fixed()], ids=["uses the attribute", "does not"])
def test_a_warm_up_from_zero_leads_to_the_rate_that_was_found(module: Warm) -> None:
    seen: list[float] = []

    class Watches(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    make(LearningRateFinder(1e-4, num_training_steps=30), Watches(), max_epochs=2).fit(module, BATCHES)
    assert module.lr not in (0.02, 0.05)
    assert seen == pytest.approx([module.lr * step / 20 for step in range(20)])


def test_nothing_is_set_without_update_attr_and_no_attribute_is_needed() -> None:
    class Bare(Net):
        def __init__(self) -> None:
            super().__init__()
            del self.lr

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.125)

    finder, module = LearningRateFinder(update_attr=False), Bare()
    trainer = make(finder)
    trainer.fit(module, BATCHES)
    assert finder.optimal_lr is not None
    assert finder.optimal_lr.suggestion() is not None
    assert (trainer.optimizers[0].param_groups[0]["lr"], hasattr(module, "lr")) == (0.125, False)


@pytest.mark.parametrize("name", ["learning_rate", "rate", "optim.rate"])
def test_the_attribute_may_have_another_name(name: str) -> None:
    class Named(Net):
        def __init__(self) -> None:
            super().__init__()
            del self.lr
            self.save_hyperparameters({"optim": {"rate": 0.1}, "rate": 0.2, "learning_rate": 0.3})

        def configure_optimizers(self) -> Any:
            hparams = self.hparams
            rates = {"learning_rate": hparams.learning_rate, "rate": hparams.rate, "optim.rate": hparams.optim["rate"]}
            return torch.optim.SGD(self.parameters(), lr=rates[name])

    finder, module = LearningRateFinder(attr_name="" if name == "learning_rate" else name), Named()
    trainer = make(finder)
    trainer.fit(module, BATCHES)
    assert finder.optimal_lr is not None
    found = finder.optimal_lr.suggestion()
    assert trainer.optimizers[0].param_groups[0]["lr"] == found
    values = {"learning_rate": 0.3, "rate": 0.2, "optim.rate": 0.1} | {name: found}
    hparams = module.hparams
    assert [hparams.learning_rate, hparams.rate, hparams.optim["rate"]] == list(values.values())


def test_each_fit_searches_anew() -> None:
    finder, module = LearningRateFinder(1e-5, num_training_steps=30), Net()
    trainer = make(finder)
    trainer.fit(module, BATCHES)
    first = finder.optimal_lr
    trainer.max_epochs = 2
    trainer.fit(module, BATCHES)
    assert first is not None
    assert finder.optimal_lr is not None
    assert finder.optimal_lr.results["lr"][:20] == first.results["lr"][:20]
    assert finder.optimal_lr.results["loss"] != first.results["loss"]  # of the module as the first fit left it


# -- who is called --------------------------------------------------------------------------------------------------


class Tells(Net):
    """Keeps the hooks that are called, where no search takes it back."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "told", events.append)


for _hook in (
    "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad",
    "on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end", "on_train_end", "on_fit_end",
    "on_validation_start", "train_dataloader", "configure_optimizers",
):  # fmt: skip

    def _tell(self: Any, *args: Any, _name: str = _hook) -> Any:
        self.told(_name)
        return getattr(Net, _name)(self, *args) if _name != "train_dataloader" else BATCHES[:2]

    setattr(Tells, _hook, _tell)


def test_the_modules_hooks_are_called_in_the_search_but_those_of_an_end() -> None:
    events: list[str] = []
    finder = LearningRateFinder(num_training_steps=4, update_attr=False, early_stop_threshold=None)
    with pytest.warns(UserWarning, match="no learning rate can be suggested"):
        make(finder, num_sanity_val_steps=0).fit(Tells(events))
    batch = [
        "on_train_batch_start", "on_before_zero_grad", "on_before_optimizer_step", "on_train_batch_end",
    ]  # fmt: skip
    search = [
        "on_fit_start", "train_dataloader", "on_train_start", "on_train_epoch_start", *batch, *batch,
        "on_train_epoch_end", "on_train_epoch_start", *batch, *batch,
    ]  # fmt: skip
    fit = [
        "on_fit_start", "train_dataloader", "on_train_start", "on_train_epoch_start", *batch, *batch,
        "on_train_epoch_end", "on_train_end", "on_fit_end",
    ]  # fmt: skip
    assert events == ["configure_optimizers", *search, *fit]


def test_other_callbacks_hear_nothing_and_order_is_as_declared() -> None:
    def events(*finders: Callback) -> list[str]:
        listens = Listens()
        trainer = make(listens, EarlyStopping("loss"), *finders)
        trainer.fit(Net(), BATCHES)
        return listens.events

    finder = LearningRateFinder(1e-4, num_training_steps=30)
    assert events(finder) == events()
    trainer = make(ModelCheckpoint(), LearningRateMonitor(logging_interval="step"), finder, logger=True)
    assert trainer.callbacks[0] is finder


class Listens(Callback):
    """Keeps the hooks of a training."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.events.append("on_fit_start")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.events.append("on_train_start")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.events.append(f"on_train_batch_start {batch_idx} of {trainer.global_step}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.events.append("on_before_optimizer_step")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.events.append("on_train_epoch_end")


def test_sigterm_ends_the_search_at_the_next_batch() -> None:
    class Asked(Net):
        steps = 0

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            Asked.steps += 1
            if Asked.steps == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().training_step(batch, batch_idx)

    module = Asked()
    weights = copy.deepcopy(module.state_dict())
    with pytest.raises(SIGTERMException):
        make(LearningRateFinder()).fit(module, BATCHES)
    assert Asked.steps == 3
    assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["fast_dev_run", "limit_train_batches=0"])
def test_it_is_left_out_with_a_word(caplog: pytest.LogCaptureFixture, reason: str) -> None:
    finder, module = LearningRateFinder(), Net()
    with caplog.at_level(logging.INFO, "leyden"):
        make(finder, **({"fast_dev_run": True} if reason == "fast_dev_run" else {"limit_train_batches": 0})).fit(
            module, BATCHES
        )
    assert f"LearningRateFinder leaves its search out, since Trainer({reason})" in caplog.text
    assert (finder.optimal_lr, module.lr) == (None, 0.02)


def test_every_bad_argument_is_named_at_once() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        LearningRateFinder(0, -1, 1, "exp", 0, "yes", None)  # type: ignore[arg-type]
    assert str(raised.value) == (
        "LearningRateFinder(...) cannot work:\n"
        "  - min_lr=0: expected a number above 0\n"
        "  - max_lr=-1: expected a number above 0\n"
        "  - num_training_steps=1: expected an int >= 2\n"
        "  - mode='exp': expected 'exponential' or 'linear'\n"
        "  - early_stop_threshold=0: expected a number above 0 or None\n"
        "  - update_attr='yes': expected True or False\n"
        "  - attr_name=None: expected a name, '' for lr or learning_rate"
    )
    with pytest.raises(MisconfigurationException, match=r"min_lr=1.0, max_lr=0.5: expected min_lr < max_lr"):
        LearningRateFinder(1.0, 0.5)


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Several(Net):
    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.layers[0], self.layers[2])]


class Without(Net):
    def configure_optimizers(self) -> Any:
        return None


@pytest.mark.filterwarnings("ignore:.*returned no optimizer")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Manual, "LearningRateFinder: Manual steps its optimizers itself (automatic_optimization = False), but"),
        (Several, "LearningRateFinder: Several has 2 optimizers, but the search raises the learning rate of the one"),
        (Without, "LearningRateFinder: Without has 0 optimizers, but"),
    ],
)
def test_what_has_not_one_optimizer_is_refused(module: type[Net], message: str) -> None:
    with pytest.raises(MisconfigurationException) as raised:
        make(LearningRateFinder()).fit(module(), BATCHES)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(("attr_name", "names"), [("", "lr and no learning_rate"), ("rate.of", "rate.of")])
def test_a_module_without_the_attribute_is_refused(attr_name: str, names: str) -> None:
    module = Net()
    del module.lr
    with pytest.raises(MisconfigurationException) as raised:
        make(LearningRateFinder(attr_name=attr_name)).fit(module, BATCHES)
    assert str(raised.value).startswith(f"LearningRateFinder: Net has no {names}, neither as an attribute nor in hpara")
    assert "update_attr=False" in str(raised.value)


def test_importing_the_family_and_the_finders_imports_no_plots() -> None:
    code = "import leyden_optim, sys; leyden_optim.LearningRateFinder; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
