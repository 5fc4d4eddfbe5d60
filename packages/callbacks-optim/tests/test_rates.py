"""Rates that schedules begin at, and go on from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, LinearLR, SequentialLR

from leyden_optim.rates import give_rate, rates_of, set_rate


def made(schedule: Any = None) -> Any:
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, torch.tensor(0.2))]
    optimizer = torch.optim.AdamW(groups, foreach=False)
    schedulers = [] if schedule is None else [SimpleNamespace(scheduler=schedule(optimizer))]
    return SimpleNamespace(optimizers=[optimizer], lr_scheduler_configs=schedulers)


def rates(trainer: Any, steps: int) -> list[float]:
    """Return the first group's rate now and after each of some steps."""
    found = [float(trainer.optimizers[0].param_groups[0]["lr"])]
    for _ in range(steps):
        trainer.optimizers[0].step()
        trainer.lr_scheduler_configs[0].scheduler.step()
        found.append(float(trainer.optimizers[0].param_groups[0]["lr"]))
    return found


def test_every_group_gets_it_also_where_it_is_a_tensor() -> None:
    trainer = made()
    tensor = trainer.optimizers[0].param_groups[1]["lr"]
    set_rate(trainer.optimizers[0], 0.5)
    assert rates_of(trainer) == [(0.5, 0.5)] * 2
    assert trainer.optimizers[0].param_groups[1]["lr"] is tensor
    give_rate(trainer, 0.25, is_underway=False)
    assert rates_of(trainer) == [(0.25, 0.25)] * 2


SCHEDULES: dict[str, Any] = {
    "warm-up from 0": lambda optimizer: LambdaLR(optimizer, lambda step: step / 4),
    "decay": lambda optimizer: ExponentialLR(optimizer, 0.5),
    "warm-up, then decay": lambda optimizer: SequentialLR(
        optimizer, [LinearLR(optimizer, 0.25, total_iters=2), ExponentialLR(optimizer, 0.5)], [2]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_that_has_not_begun_is_as_if_the_rate_had_been_given(schedule: str) -> None:
    trainer = made(SCHEDULES[schedule])
    straight = rates(made(SCHEDULES[schedule]), 5)
    give_rate(trainer, 0.4, is_underway=False)
    assert rates(trainer, 5) == pytest.approx([4 * rate for rate in straight])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_that_is_under_way_goes_on_from_the_rate(schedule: str) -> None:
    trainer = made(SCHEDULES[schedule])
    straight = rates(trainer, 3)
    give_rate(trainer, 0.7, is_underway=True)
    on = rates(made(SCHEDULES[schedule]), 6)
    assert straight == on[:4]
    assert rates(trainer, 3) == pytest.approx([0.7 * rate / on[3] for rate in on[3:]])
