"""Finetuning cut anywhere around each unfreeze and gone on with: groups with names, rates, momenta, modes, schedulers.

What is compared is all that a checkpoint at the end holds, with the state of the callback: who is trainable, the groups
by the names of their parameters, and which BatchNorm layers are held frozen; and for each batch what is so then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_resume_hooks import HOOKS, Cut, CutIn
from torch import Tensor, nn
from torch.optim import SGD, Adam, lr_scheduler
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    BaseFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    OnExceptionCheckpoint,
)
from leyden.state.checkpoint import dump

Differences = Callable[[Any, Any], Iterable[str]]

DATA = torch.linspace(-1, 1, 48).sin().view(12, 4)
EPOCHS, BATCHES = 4, 3


class Net(LightningModule):
    """Notes in `seen` for each batch what finetuning has done so far."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.backbone = nn.Sequential()
        for name in ("layer0", "layer1"):
            self.backbone.add_module(name, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()))
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 1))

    def loss(self, batch: Tensor) -> Tensor:
        optimizers = [] if self.trainer.sanity_checking else self.trainer.optimizers
        self.seen.append(
            {
                "batch": batch.sum().item(),
                "trainable": [name for name, one in self.named_parameters() if one.requires_grad],
                "training": [name for name, one in self.named_modules() if one.training],
                "tracking": [getattr(one, "track_running_stats", None) for one in self.modules()],
                "groups": [
                    {key: repr(value) for key, value in group.items() if key != "params"}
                    for optimizer in optimizers
                    for group in optimizer.param_groups
                ],
            }
        )
        loss: Tensor = (self.head(self.backbone(batch)) - 1).pow(2).mean()
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.loss(batch))

    def trainable(self) -> dict[str, Any]:
        return {"params": [(name, one) for name, one in self.named_parameters() if one.requires_grad], "name": "first"}

    def configure_optimizers(self) -> Any:
        optimizer = Adam([self.trainable()], lr=0.05)
        cycle = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=EPOCHS * BATCHES + 1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def loader(self) -> Any:
        return DataLoader(DATA, batch_size=4, shuffle=True)  # type: ignore[arg-type]  # a tensor is one


class Plateau(Net):
    def configure_optimizers(self) -> Any:
        optimizer = SGD([self.trainable()], lr=0.05, momentum=0.9)
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val"}}


class Manual(Net):
    """Two optimizers that the training step drives, the second every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.scale = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        first, second = self.optimizers()
        self.manual_backward(super().training_step(batch, batch_idx) * self.scale)
        for optimizer in (first, second)[: 1 + batch_idx % 2]:
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        group = self.trainable()
        group["params"] = [(name, one) for name, one in group["params"] if one is not self.scale]
        optimizers = SGD([group], lr=0.05, momentum=0.9), Adam([("scale", self.scale)], lr=0.01)
        return [*optimizers], [lr_scheduler.CosineAnnealingLR(optimizers[0], EPOCHS)]


class Thaw(BaseFinetuning):
    """Lets go of BatchNorm layers, too, one level after another; by the four arguments of 1.x."""

    def __init__(self) -> None:
        """Forgets ``super().__init__()``."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any, opt_idx: int) -> None:  # type: ignore[override]
        if epoch in (1, 2) and opt_idx == 0:
            layer = pl_module.backbone[2 - epoch]
            self.unfreeze_and_add_param_group(layer, optimizer, initial_denom_lr=5.0, name=f"level{epoch}")


def by_levels(**arguments: Any) -> BackboneFinetuning:
    return BackboneFinetuning(strategy={1: ["layer1"], 2: ["*.bias"], 3: ["*"]}, level_ratio_lr=0.5, **arguments)


class ThawHead(Thaw):
    """Another one in the same trainer, for another part."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.head[1])
        pl_module.head[1].bias.requires_grad_(True)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:  # type: ignore[override]
        if epoch == 2:
            pl_module.head[1].weight.requires_grad_(True)
            optimizer.add_param_group({"params": [("weight", pl_module.head[1].weight)], "lr": 0.01, "name": "late"})


def beside_others() -> list[Callback]:
    return [
        by_levels(), EMAWeightAveraging(decay=0.8, update_starting_at_step=2), LearningRateMonitor(log_momentum=True),
        EarlyStopping("val", patience=20),
    ]  # fmt: skip


CASES: dict[str, tuple[type[Net], Callable[[], list[Callback]], dict[str, Any]]] = {
    "levels, one cycle, accumulated": (Net, lambda: [by_levels()], {"accumulate_grad_batches": 2}),
    "levels beside others, in bfloat16": (Net, beside_others, {"precision": "bf16-mixed", "gradient_clip_val": 0.5}),
    "whole, plateau, frozen norms": (Plateau, lambda: [BackboneFinetuning(1, train_bn=False)], {}),
    "levels, two optimizers by hand": (Manual, lambda: [by_levels(train_bn=False)], {}),
    "two by hand, norms let go": (Plateau, lambda: [Thaw(), ThawHead()], {"val_check_interval": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_gone_on_with_from_anywhere(case: str, resumes_exactly: Callable[..., int]) -> None:
    net, make, arguments = CASES[case]

    def build() -> dict[str, Any]:
        module = net()
        return {"module": module, "train": module.loader(), "val": module.loader(), "callbacks": make()}

    count = resumes_exactly(build, max_epochs=EPOCHS, limit_val_batches=1, num_sanity_val_steps=0, **arguments)
    assert count >= EPOCHS * (BATCHES + 3)


def test_the_monitor_has_a_series_for_each_level() -> None:
    monitor = LearningRateMonitor("epoch")
    module = Net()
    trainer = Trainer(max_epochs=EPOCHS, accelerator="cpu", discover_callbacks=False, callbacks=[by_levels(), monitor])
    trainer.fit(module, module.loader())
    assert {name: len(rates) for name, rates in monitor.lrs.items()} == {
        "lr-Adam/first": 4, "lr-Adam/backbone.layer1": 3, "lr-Adam/backbone.*.bias": 2, "lr-Adam/backbone.*": 1,
    }  # fmt: skip


class SaveIn(Callback):
    """Saves within the `at`-th call of a hook, there and then."""

    def __init__(self, hook: str, at: int, path: Path, position: Any) -> None:
        self.hook, self.left, self.path, self.position = hook, at, path, position

    def meet(self, trainer: Trainer, hook: str) -> None:
        self.left -= hook == self.hook
        if hook == self.hook and not self.left:
            self.left -= 1
            self.seen_so_far = len(vars(trainer.lightning_module)["seen"])
            trainer.save_checkpoint(self.path)


def _hook(name: str) -> Callable[..., None]:
    def hook(self: Any, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.meet(trainer, name)

    return hook


for hook_name in (*HOOKS, "on_train_batch_end"):
    setattr(SaveIn, hook_name, _hook(hook_name))


def fit(number: int, *callbacks: Callback, ckpt_path: Any = None) -> dict[str, Any] | None:
    """Train by levels; return all that the run is at its end, or None where it was cut."""
    torch.manual_seed(number)
    trainer = Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[*callbacks],
        limit_val_batches=1, num_sanity_val_steps=0,
    )  # fmt: skip
    module = Net()
    try:
        trainer.fit(module, module.loader(), module.loader(), ckpt_path=ckpt_path)
    except Cut:
        return None
    end = dump(trainer)
    del end["loops"]["fit_loop"]["draws"]
    return {"end": end, "seen": module.seen}


@pytest.fixture(scope="module")
def straight() -> dict[str, Any]:
    whole = fit(1, by_levels())
    assert whole is not None
    [groups] = whole["end"]["callbacks"]["BackboneFinetuning"]["groups"]
    assert [group["name"] for group in groups] == ["first", "backbone.layer1", "backbone.*.bias", "backbone.*"]
    return whole


def in_epoch(number: int, hook: str, batch: int) -> int:
    """Return the which call of a hook that is; each epoch has one validation of one batch."""
    per_batch = hook.startswith("on_before") or hook in (
        "on_train_batch_start",
        "on_train_batch_end",
        "on_after_backward",
    )
    return number * (BATCHES if per_batch else 1) + (batch if per_batch else 0) + 1


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("hook", HOOKS)
def test_cut_by_an_exception_in_the_epoch_of_an_unfreeze(
    hook: str, epoch: int, tmp_path: Path, straight: dict[str, Any], named_differences: Differences
) -> None:
    saver, cut = OnExceptionCheckpoint(tmp_path), CutIn(hook, in_epoch(epoch, hook, epoch - 1))
    in_order = [cut, by_levels(), saver] if epoch == 1 else [by_levels(), cut, saver]  # before it acts, and after
    assert fit(1, *in_order) is None
    resumed = fit(9, by_levels(), ckpt_path=saver.ckpt_path)
    assert resumed is not None
    assert not list(named_differences(resumed["end"], straight["end"]))
    assert not list(named_differences(resumed["seen"], straight["seen"][-len(resumed["seen"]) :]))


@pytest.mark.parametrize("position", ["first", "checkpoint"])
@pytest.mark.parametrize(
    "hook",
    ["on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_validation_end", "on_train_epoch_end"],
)
def test_saved_within_a_hook_of_the_epoch_of_an_unfreeze(
    hook: str, position: str, tmp_path: Path, straight: dict[str, Any], named_differences: Differences
) -> None:
    saver = SaveIn(hook, in_epoch(2, hook, 0), tmp_path / "run.ckpt", position)
    fit(1, by_levels(), saver)
    resumed = fit(9, by_levels(), ckpt_path=saver.path)
    assert resumed is not None
    assert not list(named_differences(resumed["end"], straight["end"]))
    assert not list(named_differences(resumed["seen"], straight["seen"][-len(resumed["seen"]) :]))
