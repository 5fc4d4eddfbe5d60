"""When stochastic weight averaging begins, and the learning rates it trains at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch.optim.swa_utils import SWALR

from leyden.arguments import check_arguments, is_count, is_int, is_positive, takes
from leyden.errors import MisconfigurationException
from leyden.optimizers import LRSchedulerConfig
from leyden.rank_zero import rank_zero_info
from leyden_optim.averaging_arguments import AVERAGE, is_device

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["SWASchedule"]


@dataclass(frozen=True, slots=True)
class SWASchedule:
    """The arguments of `StochasticWeightAveraging` that decide on epochs and learning rates, checked and put to use."""

    swa_lrs: float | Sequence[float]
    swa_epoch_start: int | float
    annealing_epochs: int
    annealing_strategy: Literal["cos", "linear"]

    def check(self, owner: str, avg_fn: Any, device: Any) -> None:
        """Raise `MisconfigurationException` with every argument of the callback `owner` that cannot work."""
        lrs, start = self.swa_lrs, self.swa_epoch_start
        lrs_are_right = is_positive(lrs) or (
            isinstance(lrs, list | tuple) and bool(lrs) and all(is_positive(lr) for lr in lrs)
        )
        start_is_right = is_count(start, least=1) or (isinstance(start, float) and 0 <= start <= 1)
        check_arguments(
            owner,
            ("swa_lrs", lrs, lrs_are_right, "a number above 0, or a list of them, one for each parameter group"),
            ("swa_epoch_start", start, start_is_right, "an int >= 1, or a float from 0.0 to 1.0"),
            ("annealing_epochs", self.annealing_epochs, is_count(self.annealing_epochs), "an int >= 0"),
            (
                "annealing_strategy",
                self.annealing_strategy,
                self.annealing_strategy in ("cos", "linear"),
                "'cos' or 'linear'",
            ),
            ("avg_fn", avg_fn, avg_fn is None or takes(avg_fn, 3), AVERAGE),
            ("device", device, is_device(device), "a device of torch, such as 'cpu' or 'cuda:1', or None"),
        )

    def first_epoch(self, owner: str, trainer: Trainer) -> int:
        """Return the first averaged epoch, from 0; with `fast_dev_run` the only one, so that all of it is tried.

        Raises:
            MisconfigurationException: no epoch of the trainer would be averaged, or nobody knows which.
        """
        start, max_epochs = self.swa_epoch_start, trainer.max_epochs
        if trainer.fast_dev_run:
            return 0
        if is_int(start):
            if max_epochs not in (-1, None) and start > max_epochs:
                raise MisconfigurationException(
                    f"{owner}(swa_epoch_start={start}) begins after the last epoch of Trainer(max_epochs={max_epochs})"
                    "; lower it, or train longer."
                )
            return start - 1
        if max_epochs in (-1, None):
            raise MisconfigurationException(
                f"{owner}(swa_epoch_start={start}) is a fraction of max_epochs, and Trainer(max_epochs={max_epochs}) "
                "sets no limit; give the number of an epoch, from 1, or set max_epochs."
            )
        return max(int(max_epochs * start) - 1, 0)

    def check_optimizers(self, owner: str, trainer: Trainer) -> None:
        """Raise where learning rates cannot be set as they should be; more may be given to what finetuning will add."""
        module, groups = trainer.lightning_module, _groups(trainer)
        if not module.automatic_optimization and trainer.lr_scheduler_configs:
            raise MisconfigurationException(
                f"{owner} sets the learning rates of the averaged epochs, which {type(module).__name__} sets too: "
                "under manual optimisation it steps its schedulers itself. Leave the schedulers out of "
                "configure_optimizers, or average with WeightAveraging, which sets none."
            )
        if isinstance(self.swa_lrs, int | float):
            return
        adds_groups = any(kind.__name__ == "BaseFinetuning" for one in trainer.callbacks for kind in type(one).__mro__)
        if len(self.swa_lrs) < len(groups) or (len(self.swa_lrs) > len(groups) and not adds_groups):
            raise self._wrong_number(owner, len(groups))

    def take_over(self, owner: str, trainer: Trainer) -> None:
        """Put torch's `SWALR` in the place of the schedulers there are."""
        if trainer.lr_scheduler_configs:
            names = ", ".join(type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs)
            rank_zero_info(f"{owner}: SWALR takes the place of {names}.")
        lrs, configs = self._lrs(owner, trainer), []
        for optimizer in trainer.optimizers:
            own = [lrs.pop(0) for _ in optimizer.param_groups]
            scheduler = SWALR(optimizer, own, self.annealing_epochs, self.annealing_strategy)  # type: ignore[arg-type]
            configs.append(LRSchedulerConfig(scheduler))
        trainer.lr_scheduler_configs = configs

    def include_new_groups(self, owner: str, trainer: Trainer) -> None:
        """Give parameter groups that finetuning has added the learning rate to anneal to."""
        groups = _groups(trainer)
        if any("swa_lr" not in group for group in groups):
            for group, lr in zip(groups, self._lrs(owner, trainer), strict=True):
                group.setdefault("swa_lr", lr)

    def step(self, trainer: Trainer) -> None:
        """Step the schedulers, which nobody else does under manual optimisation."""
        for config in trainer.lr_scheduler_configs:
            config.scheduler.step()

    def _lrs(self, owner: str, trainer: Trainer) -> list[float]:
        groups = len(_groups(trainer))
        if isinstance(self.swa_lrs, int | float):
            return [float(self.swa_lrs)] * groups
        if len(self.swa_lrs) != groups:
            raise self._wrong_number(owner, groups)
        return [float(lr) for lr in self.swa_lrs]

    def _wrong_number(self, owner: str, groups: int) -> MisconfigurationException:
        return MisconfigurationException(
            f"{owner}(swa_lrs={self.swa_lrs!r}) has {len(self.swa_lrs)} learning rates "  # type: ignore[arg-type]
            f"and the optimizers have {groups} parameter group(s); give one for each, or one number for all."
        )


def _groups(trainer: Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
