"""Timer: measures the stages of a run and ends the training when its time is up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leyden.arguments import refuse
from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.rank_zero import rank_zero_info
from leyden_optim.duration import Duration, seconds_of
from leyden_optim.stopwatch import Stopwatch

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["Timer"]

_STAGES = ("train", "sanity_check", "validate", "test", "predict")
_OF_ENTRY_POINT = {"fit": ("train", "sanity_check", "validate")}


class Timer(Callback):
    """Measures how long each stage takes and asks the trainer to stop when training has taken `duration`.

    With several processes the first one's clock decides, and all stop behind the same batch, within about a second.

    Args:
        duration: ``"DD:HH:MM:SS"`` (days, hours, minutes, seconds), a timedelta, or its keywords as a dict:
            ``{"hours": 11, "minutes": 45}``; not negative. None measures only.
        interval: look at the clock after each training batch (``"step"``), or each epoch (``"epoch"``).
        verbose: log a line when time is up.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> timer = Timer("00:00:05:00")
        >>> trainer = Trainer(max_epochs=1, logger=False, callbacks=[timer], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> 0 < timer.time_elapsed("train") < 300, timer.time_remaining() < 300
        (True, True)
    """

    role: ClassVar[str | None] = "timer"

    def __init__(
        self,
        duration: Duration | None = None,
        interval: Literal["step", "epoch"] = "step",
        verbose: bool = True,
    ) -> None:
        super().__init__()
        problems = []
        self._duration_s: float | None = None
        if duration is not None:
            try:
                self._duration_s = seconds_of(duration)
            except ValueError as error:
                problems.append(f"duration={duration!r}: {error}")
        if interval not in ("step", "epoch"):
            nearest = did_you_mean(str(interval), ("step", "epoch"))
            problems.append(f"interval={interval!r}: expected 'step' or 'epoch'.{nearest}")
        if not isinstance(verbose, bool):
            problems.append(f"verbose={verbose!r}: expected True or False")
        refuse(type(self).__name__, problems)
        self.interval = interval
        self.verbose = verbose
        self._watches = {stage: Stopwatch() for stage in _STAGES}

    @staticmethod
    def clock() -> float:
        """Return seconds since some moment; a subclass may have another clock."""
        return time.monotonic()

    # -- what it measured -------------------------------------------------------------------------------------------

    def start_time(self, stage: str = "train") -> float | None:
        """Return the clock's reading when `stage` last began; None before."""
        return self._watch(stage).started

    def end_time(self, stage: str = "train") -> float | None:
        """Return the clock's reading when `stage` last ended; None before, and while it runs."""
        return self._watch(stage).ended

    def time_elapsed(self, stage: str = "train") -> float:
        """Return the seconds spent in `stage`, over all its runs and those of the run that was resumed."""
        return self._watch(stage).elapsed(self.clock())

    def time_remaining(self, stage: str = "train") -> float | None:
        """Return the seconds left of `duration`, never less than 0; None without a duration."""
        return None if self._duration_s is None else max(0.0, self._duration_s - self.time_elapsed(stage))

    def _watch(self, stage: str) -> Stopwatch:
        watch = self._watches.get(str(stage))
        if watch is None:
            raise MisconfigurationException(
                f"{type(self).__name__} knows no stage {stage!r}; expected one of {', '.join(_STAGES)}."
                f"{did_you_mean(str(stage), _STAGES)}"
            )
        return watch

    # -- when it looks ----------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """Return when the first process tells the others the time; one that only measures waits for nobody.

        Durations may differ: each process may have worked out for itself how much time is left.
        """
        return None if self._duration_s is None else {"interval": self.interval}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the stages of this entry point afresh; a resumed run gets its times after this."""
        for name in _OF_ENTRY_POINT.get(stage, (stage,)):
            if name in self._watches:
                self._watches[name] = Stopwatch()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that used up its time before it was interrupted does not train on."""
        self._check_together(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time training, and the validation that a resumed run goes on with."""
        now = self.clock()
        self._watches["train"].start(now)
        if trainer.fit_loop.pending == "validation":
            self._watches["validate"].start(now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training ended."""
        self._watches["train"].stop(self.clock())

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time validation, and the sanity check apart from it."""
        self._watches["sanity_check" if trainer.sanity_checking else "validate"].start(self.clock())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ended."""
        self._watches["sanity_check" if trainer.sanity_checking else "validate"].stop(self.clock())

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time the test."""
        self._watches["test"].start(self.clock())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The test ended."""
        self._watches["test"].stop(self.clock())

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time prediction."""
        self._watches["predict"].start(self.clock())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prediction ended."""
        self._watches["predict"].stop(self.clock())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock, with ``interval="step"``."""
        if self._duration_s is not None and self.interval == "step" and trainer.is_global_zero:
            self._check(trainer, self.time_elapsed())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock, with ``interval="epoch"``."""
        if self.interval == "epoch":
            self._check_together(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Nothing runs any more."""
        now = self.clock()
        for watch in self._watches.values():
            watch.stop(now)

    def _check_together(self, trainer: Trainer) -> None:
        if self._duration_s is not None:
            self._check(trainer, trainer.strategy.broadcast(self.time_elapsed()))

    def _check(self, trainer: Trainer, elapsed: float) -> None:
        """Ask to stop if the time is up: in one process of several that is enough."""
        if self._duration_s is None or elapsed < self._duration_s or trainer.should_stop:
            return
        trainer.should_stop = True
        if self.verbose:
            spent, given = _told(elapsed), _told(self._duration_s)
            rank_zero_info(f"{type(self).__name__}: the time is up ({spent} of {given}); training stops.")

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds spent in each stage."""
        return {"time_elapsed": {stage: self.time_elapsed(stage) for stage in _STAGES}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the seconds spent before."""
        for stage, elapsed in state_dict.get("time_elapsed", {}).items():
            if stage in self._watches:
                self._watches[stage] = Stopwatch(elapsed)


def _told(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 1 else str(timedelta(seconds=int(seconds)))
