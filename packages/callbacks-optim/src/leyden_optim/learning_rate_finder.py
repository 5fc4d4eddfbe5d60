"""LearningRateFinder: a learning rate for the training that begins, from a short trial with rising rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from leyden.arguments import is_count, is_positive, refuse
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.loops.trial import EndOfTrial, trial
from leyden.rank_zero import rank_zero_info
from leyden_optim.begun_anew import accumulation_of, make_optimizers_anew, with_random_numbers_of
from leyden_optim.hyperparameter import Hyperparameter
from leyden_optim.learning_rate_search import LearningRateSearch, Mode
from leyden_optim.rates import give_rate, rates_of, set_rate

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["LearningRateFinder"]

_NAMES = ("lr", "learning_rate")


class LearningRateFinder(Callback):
    """Finds a learning rate before a fit: the loss of some steps, each with a higher rate than the one before.

    The module's attribute gets the rate at which the loss fell steepest, and ``configure_optimizers`` is asked again,
    so that all is as if the attribute had been so from the beginning.

    Args:
        min_lr: the rate of the first step, above 0.
        max_lr: the rate of the last step, above `min_lr`.
        num_training_steps: optimizer steps, with all the batches that gradients are accumulated over; at least 2. A
            rate can be suggested from 13 on.
        mode: ``"exponential"``: each rate is the one before times a factor; ``"linear"``: plus an amount.
        early_stop_threshold: end the search when the smoothed loss is so many times the lowest so far, or is not
            finite; None goes on to the end.
        update_attr: set the module's attribute and the optimizers; else only `optimal_lr` tells what was found.
        attr_name: where the module or its ``hparams`` keep the rate; ``"optim.lr"`` goes into `optim`. Where empty:
            ``"lr"`` or ``"learning_rate"``.

    Attributes:
        optimal_lr: what was found, a `LearningRateSearch`; None before.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; when fit begins, under manual
            optimisation or without the attribute.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> class Module(BoringModule):
        ...     lr = 1e-9
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=self.lr)
        >>> import torch
        >>> module, finder = Module(), LearningRateFinder(min_lr=1e-4)
        >>> trainer = Trainer(max_epochs=1, logger=False, callbacks=[finder], discover_callbacks=False)
        >>> trainer.fit(module)
        >>> module.lr == finder.optimal_lr.suggestion() == trainer.optimizers[0].param_groups[0]["lr"]
        True
    """

    position = "first"

    def __init__(
        self,
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training_steps: int = 100,
        mode: Mode = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> None:
        super().__init__()
        problems = []
        for name, rate in (("min_lr", min_lr), ("max_lr", max_lr)):
            if not is_positive(rate):
                problems.append(f"{name}={rate!r}: expected a number above 0")
        if not problems and not min_lr < max_lr:
            problems.append(f"min_lr={min_lr!r}, max_lr={max_lr!r}: expected min_lr < max_lr")
        if not is_count(num_training_steps, least=2):
            problems.append(f"num_training_steps={num_training_steps!r}: expected an int >= 2")
        if mode not in ("exponential", "linear"):
            problems.append(f"mode={mode!r}: expected 'exponential' or 'linear'")
        if early_stop_threshold is not None and not is_positive(early_stop_threshold):
            problems.append(f"early_stop_threshold={early_stop_threshold!r}: expected a number above 0 or None")
        if not isinstance(update_attr, bool):
            problems.append(f"update_attr={update_attr!r}: expected True or False")
        if not isinstance(attr_name, str):
            problems.append(f"attr_name={attr_name!r}: expected a name, '' for lr or learning_rate")
        refuse(type(self).__name__, problems)
        self.mode, self.num_training_steps, self.attr_name = mode, num_training_steps, attr_name
        self.min_lr, self.max_lr = float(min_lr), float(max_lr)
        self.early_stop_threshold, self.update_attr = early_stop_threshold, update_attr
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.optimal_lr: LearningRateSearch | None = None
        self._lr: float | None = None
        self._is_due = False  # whether this fit, or the one it resumes, has its search still before it
        self._checkpoint: dict[str, Any] | None = None  # that is resumed, made before the search was done

    # -- within a fit -----------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        names = ("min_lr", "max_lr", "num_training_steps", "mode", "early_stop_threshold", "update_attr", "attr_name")
        return {name: getattr(self, name) for name in names}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot work."""
        if stage != "fit":
            return
        self._start_afresh()
        self._is_due = True
        if not pl_module.automatic_optimization:
            raise self._cannot(pl_module, "steps its optimizers itself (automatic_optimization = False)")
        if self.update_attr:
            self._attribute(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, before any other callback's fit begins."""
        if self._is_due:
            with_random_numbers_of(self._checkpoint)
            self.lr_find(trainer, pl_module)

    def lr_find(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, in a hook of a fit, and let module and optimizers have what is found.

        The optimizers of a training that is under way keep their state; each group gets the rate.
        """
        self.search(trainer, pl_module)
        if self._lr is None or not self.update_attr:
            return
        before, attribute, is_underway = rates_of(trainer), self._attribute(pl_module), trainer.fit_loop.underway
        is_new = attribute.read() != self._lr
        attribute.write(self._lr)
        if not is_underway:
            make_optimizers_anew(trainer, self._checkpoint)
        if is_underway or (is_new and before == rates_of(trainer)):  # configure_optimizers does not use the attribute
            give_rate(trainer, self._lr, is_underway=is_underway)

    # -- the search -------------------------------------------------------------------------------------------------

    def search(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Search, and leave the result in `optimal_lr`."""
        name = type(self).__name__
        if trainer.settings.fast_dev_run or trainer.settings.limit_train_batches == 0:
            why = "fast_dev_run" if trainer.settings.fast_dev_run else "limit_train_batches=0"
            rank_zero_info(f"{name} leaves its search out, since Trainer({why}) makes too few steps.")
            return
        if len(trainer.optimizers) != 1:
            raise self._cannot(pl_module, f"has {len(trainer.optimizers)} optimizers")
        search = LearningRateSearch(self.mode, self.min_lr, self.max_lr, self.num_training_steps)
        sweep = _Sweep(search, self.early_stop_threshold, trainer)
        with trial(trainer, sweep, ["train_dataloader"]) as aside:
            aside.accumulate_grad_batches = accumulation_of(trainer)
            aside.fit_loop.run()
        self._is_due, self.optimal_lr = False, search
        self._lr = search.suggestion()
        if self._lr is not None:
            rank_zero_info(f"{name}: the loss fell steepest at a learning rate of {self._lr:.3g}.")

    def update(self, pl_module: LightningModule, datamodule: object = None) -> None:
        """Let the module's attribute have what was found."""
        if self._lr is not None and self.update_attr:
            self._attribute(pl_module).write(self._lr)

    def _attribute(self, pl_module: LightningModule) -> Hyperparameter:
        names = (self.attr_name,) if self.attr_name else _NAMES
        for name in names:
            found = Hyperparameter(name, pl_module)
            if found.found:
                return found
        module = type(pl_module).__name__
        raise MisconfigurationException(
            f"{type(self).__name__}: {module} has no {' and no '.join(names)}, neither as an attribute nor in hparams, "
            f"that could be given the learning rate. Set self.{names[0]} in __init__ and use it in "
            "configure_optimizers, name it with attr_name=..., or leave it with update_attr=False."
        )

    def _cannot(self, pl_module: LightningModule, what: str) -> MisconfigurationException:
        return MisconfigurationException(
            f"{type(self).__name__}: {type(pl_module).__name__} {what}, but the search raises the learning rate of the "
            "one optimizer that automatic optimisation steps. Leave the finder out and choose the rate by hand."
        )

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was found, and whether the search is still to be made."""
        if self.optimal_lr is None and not self._is_due:
            return {}
        found = None if self.optimal_lr is None else self.optimal_lr.state_dict()
        return {"is_due": self._is_due, "lr": self._lr, "search": found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was found."""
        self._is_due, self._lr, found = bool(state_dict["is_due"]), state_dict["lr"], state_dict["search"]
        self.optimal_lr = None if found is None else LearningRateSearch(**found)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give the module the rate that was found before its optimizers are made."""
        if str(trainer.state.fn) != "fit":
            return
        state = (checkpoint.get("callbacks") or {}).get(self.state_key) or {}
        self._is_due = bool(state.get("is_due"))
        self._checkpoint = checkpoint if self._is_due else None
        if state.get("lr") is not None and self.update_attr:
            self._attribute(pl_module).write(state["lr"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the checkpoint."""
        self._checkpoint = None


class _Sweep(Callback):
    """Trains with a higher rate from window to window, and notes the losses."""

    def __init__(self, search: LearningRateSearch, threshold: float | None, run: Trainer) -> None:
        self._search, self._threshold, self._run = search, threshold, run
        self._steps, self._lowest, self._loss = 0, math.inf, 0.0
        self._begins, self._has_loss = True, False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._run.raise_on_sigterm()
        if self._steps == self._search.num_training:
            raise EndOfTrial
        if self._begins:
            self._begins, self._loss, self._has_loss = False, 0.0, False
            set_rate(trainer.optimizers[0], self._search.rate_at(self._steps))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss")
        if loss is not None:
            self._loss, self._has_loss = self._loss + float(loss), True
        if not trainer.fit_loop.window_ends:
            return
        rate, self._begins, self._steps = self._search.rate_at(self._steps), True, self._steps + 1
        if not self._has_loss:
            return
        loss = self._loss
        if trainer.world_size > 1:  # so that all end with the same step and the same rate
            loss = float(trainer.strategy.reduce(torch.tensor(loss, device=trainer.strategy.root_device)))
        smooth = self._search.add(rate, loss)
        if self._threshold is not None:
            if not math.isfinite(smooth) or (self._steps > 1 and smooth > self._threshold * self._lowest):
                raise EndOfTrial
            self._lowest = min(self._lowest, smooth)

    def on_train_epoch_end(self, *_: Any) -> None:
        if self._steps == self._search.num_training:  # before the module's, which is not needed
            raise EndOfTrial
