"""A group that joins a schedule later, beside torch alone with both groups from the start: rates, momenta, betas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader

from leyden import LightningModule, Trainer
from leyden_finetune import BaseFinetuning
from leyden_finetune.schedulers import adopt_new_groups

SHARE = 0.25
STEPS = 12


def many(optimizer: Optimizer, value: float, *, scaled: bool = True) -> list[float]:
    """Return a scheduler's argument for each group that there is: the second's rates are a share of the first's."""
    return [value, value * SHARE if scaled else value][: len(optimizer.param_groups)]


def sequential(optimizer: Optimizer) -> Any:
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 4)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, lr_scheduler.CosineAnnealingLR(optimizer, 8)], [4])


def chained(optimizer: Optimizer) -> Any:
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.5, 5), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [3, 7], gamma=0.5),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, 5),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.5, 1.0, 10),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 20, power=2.0),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "lambdas in a list": lambda o: lr_scheduler.LambdaLR(o, [lambda step: 1 / (step + 1)] * len(o.param_groups)),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "multiplicative, in a list": lambda o: lr_scheduler.MultiplicativeLR(o, [lambda step: 0.9] * len(o.param_groups)),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, many(o, 0.4), total_steps=STEPS + 1),
    "one cycle, three phases": lambda o: lr_scheduler.OneCycleLR(o, many(o, 0.4), STEPS + 1, three_phase=True),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, many(o, 0.1), many(o, 0.4), step_size_up=3),
    "cyclic, triangular2": lambda o: lr_scheduler.CyclicLR(o, many(o, 0.1), many(o, 0.4), 3, mode="triangular2"),
    "sequential": sequential,
    "chained": chained,
}


def rates(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {key: group[key] for key in ("lr", "momentum", "betas") if key in group} for group in optimizer.param_groups
    ]


def near(one: list[dict[str, Any]]) -> list[Any]:
    return [{key: pytest.approx(value, rel=1e-9, abs=1e-15) for key, value in group.items()} for group in one]


@pytest.mark.parametrize("kind", [SGD, AdamW])
@pytest.mark.parametrize("joins_at", [0, 3, 8])
@pytest.mark.parametrize("name", SCHEDULES)
def test_joins_as_if_it_had_been_there_from_the_start(name: str, joins_at: int, kind: Any) -> None:
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9} if kind is SGD else {"lr": 0.1, "betas": (0.88, 0.99)}
    backbone, head = nn.Linear(2, 2), nn.Linear(2, 1)
    both = kind(
        [{"params": head.parameters()}, {"params": backbone.parameters(), "lr": options["lr"] * SHARE}], **options
    )
    expected = SCHEDULES[name](both)
    optimizer = kind(head.parameters(), **options)
    scheduler = SCHEDULES[name](optimizer)
    for step in range(STEPS):
        if step == joins_at:
            BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer, initial_denom_lr=1 / SHARE)
            adopt_new_groups([scheduler], optimizer)
            adopt_new_groups([scheduler], optimizer)  # what is known already is left alone
        assert rates(optimizer) == near(rates(both)[: len(optimizer.param_groups)])
        for one, schedule in ((both, expected), (optimizer, scheduler)):
            one.step()
            schedule.step()
    assert scheduler.get_last_lr() == pytest.approx(expected.get_last_lr())
    state = scheduler.state_dict()  # and it is one that the scheduler of both groups goes on from
    expected.load_state_dict(state)


@pytest.mark.parametrize("joins_at", [1, 3])
def test_swalr_anneals_it_to_the_same_rate(joins_at: int) -> None:
    optimizer = SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    scheduler = SWALR(optimizer, swa_lr=0.02, anneal_epochs=6)
    for step in range(8):
        if step == joins_at:
            BaseFinetuning.unfreeze_and_add_param_group(nn.Linear(2, 2), optimizer)
            adopt_new_groups([scheduler], optimizer)
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]
    assert len(scheduler.get_last_lr()) == 2


@pytest.mark.parametrize("min_lr", [0.0, 0.004, [0.004]])
def test_plateau_reduces_it_with_the_first(min_lr: Any) -> None:
    """As torch does with both groups from the start, down to the lowest rate."""
    losses = [1.0, 2.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0, 2.0]
    backbone, head = nn.Linear(2, 2), nn.Linear(2, 1)
    groups: list[dict[str, Any]] = [{"params": head.parameters()}, {"params": backbone.parameters(), "lr": 0.025}]
    both = SGD(groups, lr=0.1)
    lowest = min_lr * 2 if isinstance(min_lr, list) else min_lr
    expected = lr_scheduler.ReduceLROnPlateau(both, factor=0.5, patience=0, min_lr=lowest)
    optimizer = SGD(head.parameters(), lr=0.1)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, min_lr=min_lr)
    for step, loss in enumerate(losses):
        if step == 2:
            BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer, initial_denom_lr=4.0)
            adopt_new_groups([plateau], optimizer)
        expected.step(loss)
        plateau.step(loss)
        assert rates(optimizer) == near(rates(both)[: len(optimizer.param_groups)])
    assert plateau.num_bad_epochs == expected.num_bad_epochs


def test_lowest_rate_of_a_cosine_is_that_of_all() -> None:
    optimizer = SGD(nn.Linear(2, 1).parameters(), lr=0.1)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0.01)
    for step in range(8):
        if step == 3:
            BaseFinetuning.unfreeze_and_add_param_group(nn.Linear(2, 2), optimizer, initial_denom_lr=2.0)
            adopt_new_groups([cosine], optimizer)
        optimizer.step()
        cosine.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01])


def test_steps_that_the_optimizer_takes_are_those_of_the_plain_loop() -> None:
    """Weights and momenta too, bit for bit: torch alone with a group that is added by hand at the same step."""
    torch.manual_seed(0)
    data = torch.randn(STEPS, 4, 2)
    ends = []
    for by_hand in (True, False):
        torch.manual_seed(1)
        backbone, head = nn.Linear(2, 2), nn.Linear(2, 1)
        BaseFinetuning.freeze(backbone)
        optimizer = SGD(head.parameters(), lr=0.1, momentum=0.9)
        for step, batch in enumerate(data):
            if step == 4 and by_hand:
                backbone.requires_grad_(True)
                optimizer.add_param_group({"params": list(backbone.parameters()), "lr": 0.01})
            elif step == 4:
                BaseFinetuning.unfreeze_and_add_param_group(backbone, optimizer)
            optimizer.zero_grad()
            head(backbone(batch)).pow(2).mean().backward()
            optimizer.step()
        ends.append([*head.state_dict().values(), *backbone.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


class Net(LightningModule):
    """A backbone that a callback sets free in the second of four epochs, under a schedule."""

    def __init__(self, schedule: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(4, 3), nn.Linear(3, 1)
        self.schedule = schedule

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = (self.head(self.backbone(batch)) - 1).pow(2).mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = SGD([one for one in self.parameters() if one.requires_grad], lr=0.1, momentum=0.9)
        interval = "epoch" if self.schedule == "plateau" else "step"
        made = whole_schedules(self.schedule, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": made, "interval": interval, "monitor": "loss"}}


def whole_schedules(name: str, optimizer: Any) -> Any:
    if name == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
    return lr_scheduler.OneCycleLR(optimizer, many(optimizer, 0.2), total_steps=13)


class Thaw(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, initial_denom_lr=1 / SHARE)


@pytest.mark.parametrize("schedule", ["one cycle", "plateau"])
def test_a_training_is_that_of_a_plain_loop_with_both_groups_from_the_start(schedule: str) -> None:
    batches = torch.linspace(-1, 1, 48).sin().view(3, 4, 4)
    trained, plain = Net(schedule), Net(schedule)
    trainer = Trainer(max_epochs=4, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[Thaw()])
    trainer.fit(trained, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]  # a tensor is a dataset

    plain.backbone.requires_grad_(False)
    groups: list[dict[str, Any]] = [
        {"params": plain.head.parameters()},
        {"params": plain.backbone.parameters(), "lr": 0.1 * SHARE},
    ]
    optimizer = SGD(groups, lr=0.1, momentum=0.9)
    scheduler = whole_schedules(schedule, optimizer)
    for epoch in range(4):
        plain.backbone.requires_grad_(epoch >= 1)
        losses = []
        for batch in batches:
            optimizer.zero_grad()
            loss = (plain.head(plain.backbone(batch)) - 1).pow(2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if schedule != "plateau":
                scheduler.step()
        if schedule == "plateau":
            scheduler.step(torch.stack(losses).mean())
    torch.testing.assert_close(trained.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)
    assert rates(trainer.optimizers[0]) == near(rates(optimizer))
    assert rates(optimizer)[0]["lr"] != 0.1
