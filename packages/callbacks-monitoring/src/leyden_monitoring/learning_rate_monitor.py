"""Logs what the optimizers' parameter groups are set to: learning rate, momentum, weight decay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from leyden.arguments import check_arguments
from leyden.callback import Callback
from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from leyden import LightningModule, Trainer

__all__ = ["LearningRateMonitor"]


@dataclass(frozen=True, slots=True)
class _Watched:
    """An optimizer under the name it is logged by; `interval` is that of the scheduler that drives it, if any."""

    name: str
    optimizer: Optimizer
    interval: str | None


class LearningRateMonitor(Callback):
    """Logs the learning rate of every parameter group to all loggers, at steps of logging and at epochs.

    Names: ``lr-Adam``; with several parameter groups ``lr-Adam/pg1``, ``lr-Adam/pg2``, or the group's own ``"name"``;
    the second optimizer of a class ``lr-Adam-1``; a scheduler's ``"name"`` instead of ``lr-Adam``. Momentum (the first
    beta where there are betas) and weight decay have the same name with ``-momentum`` and ``-weight_decay`` behind.
    Groups that are added later are logged from then on; schedulers come first, then optimizers without one.

    Values are logged with the number of steps done before them. Those by step are logged every `log_every_n_steps`
    steps of the Trainer, once per step whatever the accumulation. ``trainer.callback_metrics`` has the latest too.

    Args:
        logging_interval: ``"step"``, ``"epoch"``, or None for that of each scheduler (both where there is none).
        log_momentum: Log the momentum too.
        log_weight_decay: Log the weight decay too.

    Example:
        >>> LearningRateMonitor(logging_interval="epoch").lrs
        {}
        >>> LearningRateMonitor(log_momentum="yes")
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: LearningRateMonitor(log_momentum='yes'): expected True or False.
    """

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        super().__init__()
        check_arguments(
            type(self).__name__,
            (
                "logging_interval",
                logging_interval,
                logging_interval in (None, "step", "epoch"),
                "'step', 'epoch' or None",
            ),
            ("log_momentum", log_momentum, isinstance(log_momentum, bool), "True or False"),
            ("log_weight_decay", log_weight_decay, isinstance(log_weight_decay, bool), "True or False"),
        )
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        """Every learning rate logged in this run, by name and in order."""
        self.last_momentum_values: dict[str, float] = {}
        self.last_weight_decay_values: dict[str, float] = {}
        self._last_step_logged = -1

    @property
    def lr_sch_names(self) -> list[str]:
        """The names under which learning rates have been logged."""
        return list(self.lrs)

    def applies(self, trainer: Trainer) -> bool:
        return bool(trainer.loggers)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not trainer.loggers and not trainer.fast_dev_run:
            raise MisconfigurationException(
                f"{type(self).__name__} has nowhere to log to: the Trainer has no logger. Leave out "
                "Trainer(logger=False) or "
                "give a logger, for example Trainer(logger=CSVLogger('logs')), or take this callback out."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.lrs, self.last_momentum_values, self.last_weight_decay_values = {}, {}, {}
        loop = trainer.fit_loop  # of a run that goes on within a window, whose first batch has logged
        self._last_step_logged = loop.batches_that_stepped if loop.batches_in_window else -1

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.logging_interval != "step":
            self._log(trainer, "epoch", trainer.fit_loop.batches_that_stepped)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.logging_interval == "epoch":
            return
        step, every_n_steps = trainer.fit_loop.batches_that_stepped, trainer.log_every_n_steps
        # All batches of an accumulation window come before one step: the first of them logs.
        if every_n_steps and (step + 1) % every_n_steps == 0 and step != self._last_step_logged:
            self._last_step_logged = step
            self._log(trainer, "step", step)

    def _log(self, trainer: Trainer, interval: str, step: int) -> None:
        values: dict[str, float] = {}
        for watched in _watched(trainer):
            if self.logging_interval is None and watched.interval not in (None, interval):
                continue
            for name, group in _named_groups(watched):
                learning_rate = float(group["lr"])
                values[name] = learning_rate
                self.lrs.setdefault(name, []).append(learning_rate)
                if self.log_momentum:
                    values[f"{name}-momentum"] = self.last_momentum_values[f"{name}-momentum"] = _momentum(group)
                if self.log_weight_decay:
                    decay = float(group.get("weight_decay", 0.0))
                    values[f"{name}-weight_decay"] = self.last_weight_decay_values[f"{name}-weight_decay"] = decay
        if values:
            for logger in trainer.loggers:
                logger.log_metrics(dict(values), step=step)
            for name, value in values.items():
                trainer.callback_metrics.put(name, torch.tensor(value), trainer.global_step)


def _watched(trainer: Trainer) -> list[_Watched]:
    """Name the optimizers: those of schedulers first, in the order of the schedulers."""
    counts: Counter[str] = Counter()
    taken: set[str] = set()
    watched: list[_Watched] = []

    def watch(name: str, optimizer: Optimizer, interval: str | None) -> None:
        own = name
        while own in taken:  # by another of its name, or by a scheduler that is called "lr-Adam-1"
            counts[name] += 1
            own = f"{name}-{counts[name]}"
        taken.add(own)
        watched.append(_Watched(own, optimizer, interval))

    unnamed: set[tuple[int, str]] = set()  # two schedulers without names on one optimizer have the same to tell
    for config in trainer.lr_scheduler_configs:
        optimizer = getattr(config.scheduler, "optimizer", None)
        if optimizer is None:  # a scheduler of the user's own making; the optimizers are all logged below
            continue
        if config.name is not None:
            watch(config.name, optimizer, config.interval)
        elif (id(optimizer), config.interval) not in unnamed:
            unnamed.add((id(optimizer), config.interval))
            watch(f"lr-{type(optimizer).__name__}", optimizer, config.interval)
    driven = {id(one.optimizer) for one in watched}
    for optimizer in trainer.optimizers:
        if id(optimizer) not in driven:
            watch(f"lr-{type(optimizer).__name__}", optimizer, None)
    return watched


def _named_groups(watched: _Watched) -> Iterator[tuple[str, dict[str, Any]]]:
    groups = watched.optimizer.param_groups
    names = [group.get("name", f"pg{number}") for number, group in enumerate(groups, start=1)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise MisconfigurationException(
            f"{watched.name} has several parameter groups named {twice[0]!r}, which LearningRateMonitor cannot tell "
            "apart. "
            "Give each group a 'name' of its own, or none."
        )
    for name, group in zip(names, groups, strict=True):
        is_only_one = len(groups) == 1 and "name" not in group
        yield (watched.name if is_only_one else f"{watched.name}/{name}"), group


def _momentum(group: dict[str, Any]) -> float:
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))
