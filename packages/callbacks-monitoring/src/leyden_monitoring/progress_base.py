"""What every progress bar shares: switches, counters, totals, texts and the metrics to show."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leyden.callback import Callback
from leyden.rank_zero import rank_zero_warn
from leyden_monitoring.progress_generations import drawing_class

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["ProgressBar", "ProgressBarBase"]

Metrics = dict[str, int | str | float]
Evaluation = Literal["validate", "test", "predict"]


class ProgressBar(Callback):
    """The base of progress bars: it counts batches and knows totals, texts and metrics; drawing is the subclass's part.

    A bar of your own overrides hooks and calls ``super()`` in them. Until 1.5 `ProgressBar` was also the name of the
    tqdm bar. It still is: ``ProgressBar(refresh_rate=2)``, and a subclass that overrides no hook or makes its bars in
    ``init_*_tqdm``, draws as `TQDMProgressBar` does. `ProgressBarBase` is the older name of this class.

    Example:
        >>> class Dots(ProgressBar):
        ...     def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ...         super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        ...         self.print(".", end="")
        >>> dots = Dots()
        >>> dots.disable(), dots.is_enabled
        (None, False)
        >>> type(ProgressBar(refresh_rate=2)).__name__
        'TQDMProgressBar'
    """

    role: ClassVar[str | None] = "progress_bar"
    # Read metrics after the module's own `on_*_epoch_end` has logged them.
    position = "monitor"

    draws: ClassVar[bool] = False
    """Whether the class draws by itself; `ProgressBar` looks at it to tell bars of the older generation."""

    # Defaults of the class, so that a subclass which forgets `super().__init__()` works.
    _enabled = True
    _train_batch_idx = 0
    _evaluation: Evaluation = "validate"
    """What is evaluated now, or was last; the sanity check is a validation."""
    _evaluated: dict[Evaluation, int]
    """Batches done of each evaluation's loader at hand."""
    _current_dataloader_idx: int | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> ProgressBar:
        bar: ProgressBar = super().__new__(drawing_class(cls, ProgressBar))
        bar._evaluated = {"validate": 0, "test": 0, "predict": 0}
        return bar

    @property
    def trainer(self) -> Trainer:
        """The trainer whose progress is shown; a `TypeError` before a trainer has taken the bar."""
        trainer = None if self._trainer_ref is None else self._trainer_ref()
        if trainer is None:
            raise TypeError(
                f"{type(self).__name__}.trainer is not set yet: give the bar to Trainer(callbacks=[...]) and start a "
                "run."
            )
        return trainer

    @property
    def is_enabled(self) -> bool:
        """Whether the bar draws."""
        return self._enabled

    @property
    def is_disabled(self) -> bool:
        """Whether the bar draws nothing."""
        return not self.is_enabled

    def disable(self) -> None:
        """Draw nothing from now on; the Trainer does so on every process but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again after `disable`."""
        self._enabled = True

    def print(self, *args: Any, sep: str = " ", end: str = "\n", **kwargs: Any) -> None:
        """Print as the built-in does, without tearing what is drawn; drawing bars override it."""
        builtins.print(*args, sep=sep, end=end, **kwargs)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Metrics:
        """Return what is shown beside the bar: the logger's version as ``v_num`` and what was logged for the bar.

        Called only when something is drawn, for it brings values from the device. Override it to show more or less.
        """
        metrics: Metrics = {}
        version = trainer.loggers[0].version if trainer.loggers else None
        if version is not None:
            # A version of many characters (a run's id, a date) would push the metrics off the line.
            metrics["v_num"] = version[-4:] if isinstance(version, str) else version
        logged = trainer.progress_bar_metrics
        if twice := sorted(metrics.keys() & logged.keys()):
            rank_zero_warn(
                f"{twice[0]!r} was logged with prog_bar=True, but the progress bar shows the logger's version under "
                "this "
                "name; what was logged is shown. Log it under another name to see both."
            )
        return metrics | {name: value.item() for name, value in logged.items()}

    # -- texts -----------------------------------------------------------------------------------------------------

    @property
    def sanity_check_description(self) -> str:
        """What stands before the bar of the sanity check."""
        return "Sanity Checking"

    @property
    def train_description(self) -> str:
        """What stands before the bar of training, until an epoch begins."""
        return "Training"

    @property
    def validation_description(self) -> str:
        """What stands before the bar of a validation."""
        return "Validation"

    @property
    def test_description(self) -> str:
        """What stands before the bar of a test."""
        return "Testing"

    @property
    def predict_description(self) -> str:
        """What stands before the bar of a prediction."""
        return "Predicting"

    # -- totals: batches, `inf` where a loader has no length --------------------------------------------------------

    @property
    def total_train_batches(self) -> int | float:
        """Batches of a training epoch."""
        return self.trainer.num_training_batches

    @property
    def total_val_batches(self) -> int | float:
        """Batches of a validation (of the sanity check, while that runs), all loaders together."""
        trainer = self.trainer
        return sum(trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches)

    @property
    def total_test_batches(self) -> int | float:
        """Batches of a test, all loaders together."""
        return sum(self.trainer.num_test_batches)

    @property
    def total_predict_batches(self) -> int | float:
        """Batches of a prediction, all loaders together."""
        return sum(self.trainer.num_predict_batches)

    @property
    def total_val_batches_current_dataloader(self) -> int | float:
        """Batches of the validation loader at hand."""
        trainer = self.trainer
        sanity = trainer.sanity_checking
        return self._of_current_loader(trainer.num_sanity_val_batches if sanity else trainer.num_val_batches)

    @property
    def total_test_batches_current_dataloader(self) -> int | float:
        """Batches of the test loader at hand."""
        return self._of_current_loader(self.trainer.num_test_batches)

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        """Batches of the prediction loader at hand."""
        return self._of_current_loader(self.trainer.num_predict_batches)

    def _of_current_loader(self, totals: list[int | float]) -> int | float:
        index = self._current_dataloader_idx or 0
        return totals[index] if index < len(totals) else 0

    # -- counters --------------------------------------------------------------------------------------------------

    @property
    def train_batch_idx(self) -> int:
        """Batches of this training epoch that are done; between epochs, of the last one."""
        trainer = None if self._trainer_ref is None else self._trainer_ref()
        return (trainer is not None and trainer.fit_loop.batches_done) or self._train_batch_idx

    @property
    def val_batch_idx(self) -> int:
        """Batches of the validation loader at hand that are done."""
        return self._evaluated["validate"]

    @property
    def test_batch_idx(self) -> int:
        """Batches of the test loader at hand that are done."""
        return self._evaluated["test"]

    @property
    def predict_batch_idx(self) -> int:
        """Batches of the prediction loader at hand that are done."""
        return self._evaluated["predict"]

    def has_dataloader_changed(self, dataloader_idx: int) -> bool:
        """Whether `dataloader_idx` is another loader than at the last call (true at the first)."""
        if dataloader_idx == self._current_dataloader_idx:
            return False
        self._current_dataloader_idx = dataloader_idx
        return True

    def reset_dataloader_idx_tracker(self) -> None:
        """Make the next `has_dataloader_changed` true."""
        self._current_dataloader_idx = None

    # -- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            self.disable()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train_batch_idx = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._train_batch_idx = trainer.fit_loop.batches_done

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_evaluation("predict")

    def _start_evaluation(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        self._evaluated[evaluation] = 0
        self.reset_dataloader_idx_tracker()

    def _evaluation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated[self._evaluation] = batch_idx + 1

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _evaluation_batch_end


ProgressBarBase = ProgressBar
