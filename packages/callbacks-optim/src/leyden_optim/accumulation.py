"""GradientAccumulationScheduler: how many batches an optimizer step has, changing as training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leyden.arguments import is_count, refuse
from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.runtime.engine import needs_closure
from leyden_optim.accumulation_schedule import AccumulationSchedule

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["GradientAccumulationScheduler"]


class GradientAccumulationScheduler(Callback):
    """Sets how many batches' gradients an optimizer step has, from given epochs, or given steps, on.

    Args:
        scheduling: the factor, in batches a step and at least 1, by the epoch or step from which on it holds; both are
            counted from 0. Before the first that is named the factor is 1.
        interval: what the keys of `scheduling` count: ``"epoch"``, or ``"step"``, the optimizer steps of the run
            (``trainer.global_step``).

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; at ``Trainer(...)`` beside
            `accumulate_grad_batches`; as fit begins, where the module optimises by hand or with LBFGS.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> growing = GradientAccumulationScheduler({0: 1, 2: 4})
        >>> trainer = Trainer(max_epochs=3, logger=False, callbacks=[growing], discover_callbacks=False)
        >>> trainer.fit(BoringModule(batches={"train": 8, "val": 1}))
        >>> trainer.global_step  # 8 in each of two epochs, then 2
        18
    """

    role: ClassVar[str | None] = "accumulation"

    def __init__(self, scheduling: Mapping[int, int], interval: Literal["epoch", "step"] = "epoch") -> None:
        super().__init__()
        if isinstance(scheduling, Mapping):  # the keys of a configuration file are strings
            scheduling = {int(key) if _is_numeral(key) else key: factor for key, factor in scheduling.items()}
        problems = _problems(scheduling)
        if interval not in ("epoch", "step"):
            nearest = did_you_mean(str(interval), ("epoch", "step"))
            problems.append(f"interval={interval!r}: expected 'epoch' or 'step'.{nearest}")
        refuse(type(self).__name__, problems)
        self.interval = interval
        self._schedule = AccumulationSchedule(scheduling)
        self._reached: int | None = None  # the step of `scheduling` that windows are by now

    @property
    def scheduling(self) -> dict[int, int]:
        """The factors, with that of the beginning, by where they begin."""
        return self._schedule.factors

    @property
    def epochs(self) -> list[int]:
        """Where they begin, in order."""
        return list(self.scheduling)

    def going_to_accumulate_grad_batches(self) -> bool:
        """Whether any factor is above 1."""
        return any(factor > 1 for factor in self.scheduling.values())

    def get_accumulate_grad_batches(self, epoch: int) -> int:
        """Return the factor of an epoch; with ``interval="step"`` of the windows that begin after so many steps."""
        return self.scheduling[self._schedule.reached(epoch)]

    def steps_in(self, epochs: int, batches: int) -> int:
        """Return how many optimizer steps a number of epochs has, of so many batches each."""
        return self._schedule.steps_in(epochs, batches, by_step=self.interval == "step")

    # -- what it works beside ---------------------------------------------------------------------------------------

    def applies(self, trainer: Trainer) -> bool:
        """Not where the trainer has a factor of its own."""
        return trainer.settings.accumulate_grad_batches == 1

    def conflict_with(self, other: Callback) -> str | None:
        """Two would each set the factor."""
        if isinstance(other, GradientAccumulationScheduler):
            return "both say how many batches an optimizer step has; put what they say into one scheduling"
        return None

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        return {"interval": self.interval, "scheduling": self.scheduling}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot accumulate; a run that is resumed gets its state after this."""
        if stage != "fit":
            return
        name, module = type(self).__name__, type(pl_module).__name__
        if trainer.settings.accumulate_grad_batches != 1:  # a callback of the module is not known before
            raise MisconfigurationException(
                f"{name}(...) and Trainer(accumulate_grad_batches={trainer.settings.accumulate_grad_batches}) "
                "contradict each other, since both say how many batches an optimizer step has; leave one of them out."
            )
        if not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"{name}(...) steers automatic optimisation, but {module} has automatic_optimization = False; count "
                "batches in training_step instead, and leave the callback out."
            )
        self._reached = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimizers are there, and where a resumed run stands."""
        for optimizer in trainer.optimizers:
            if self.going_to_accumulate_grad_batches() and needs_closure(optimizer):
                raise MisconfigurationException(
                    f"{type(self).__name__}({self.scheduling}): {type(optimizer).__name__} evaluates the loss several "
                    "times a step, each time for the whole window, whose earlier batches are gone; use larger batches "
                    "instead."
                )
        loop = trainer.fit_loop
        if loop.epoch_started:  # within an epoch, in which windows stay as they are
            if self._reached is None:
                at = loop.epoch if self.interval == "epoch" else loop.steps_met
                self._reached = self._schedule.reached(at)
            trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(self._reached)
            self._await_change(trainer)

    # -- changes ----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the factor of this epoch, or of these steps."""
        self._change(trainer, trainer.current_epoch if self.interval == "epoch" else trainer.global_step)
        self._await_change(trainer)

    def _change(self, trainer: Trainer, at: int) -> None:
        self._reached = self._schedule.reached(at)
        trainer.fit_loop.accumulate(self.scheduling[self._reached])

    def _await_change(self, trainer: Trainer) -> None:
        """No hook of every batch: the loop calls when the step may have been taken."""
        assert self._reached is not None
        step = self._schedule.after(self._reached)
        if self.interval == "step" and step is not None:
            trainer.fit_loop.call_at_step(step, trainer.guarded(self, "change", lambda done: self._go_on(trainer)))

    def _go_on(self, trainer: Trainer) -> None:
        self._change(trainer, trainer.global_step)
        self._await_change(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the trainer as it was."""
        if stage == "fit":
            trainer.accumulate_grad_batches = trainer.settings.accumulate_grad_batches

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return which entry of `scheduling` holds."""
        return {} if self._reached is None else {"reached": self._reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with windows of the size that they had."""
        self._reached = state_dict.get("reached")


def _is_numeral(key: object) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdecimal()


def _problems(scheduling: object) -> list[str]:
    if not isinstance(scheduling, Mapping) or not scheduling:
        return [f"scheduling={scheduling!r}: expected factors by epoch (or step), such as {{0: 1, 4: 8}}"]
    problems = []
    for key, factor in scheduling.items():
        if not is_count(key):
            problems.append(f"scheduling={scheduling!r}: its key {key!r} is no epoch or step (int >= 0)")
        if not is_count(factor, least=1):
            problems.append(f"scheduling={scheduling!r}: its factor {factor!r} is no number of batches (int >= 1)")
    return problems
