"""What can be read off a Trainer: progress, parts, metrics, under the names users know."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback, Checkpoint
from leyden.hooks.attached import as_list
from leyden.loops.schedule import expected_steps
from leyden.older_arguments import OF_CLASSES, OLDER_ATTRIBUTES, instead_of_attribute, mark_gone
from leyden.run_state import RunningStage, TrainerState, TrainerStatus
from leyden.runtime.wrapped_optimizer import LightningOptimizer, unwrapped
from leyden.settings import Setting, Settings

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from leyden.hooks.attached import AttachedCallbacks
    from leyden.loggers import Logger
    from leyden.logging.journal import Journal
    from leyden.logging.metrics import MetricsDict
    from leyden.loops.evaluation import EvaluationLoop
    from leyden.loops.fit import FitLoop
    from leyden.loops.prediction import PredictionLoop
    from leyden.module import LightningModule
    from leyden.runtime.engine import Engine
    from leyden.runtime.precision import Precision
    from leyden.runtime.strategy import Strategy

__all__ = ["TrainerProperties"]


class TrainerProperties:
    """What can be read off a `Trainer`; settings, `callbacks`, `optimizers` and `logger` can be set."""

    settings: Settings
    state: TrainerState
    strategy: Strategy
    _num_nodes: int
    precision_plugin: Precision
    device_ids: list[int]
    engine: Engine
    journal: Journal
    fit_loop: FitLoop
    validate_loop: EvaluationLoop
    test_loop: EvaluationLoop
    predict_loop: PredictionLoop
    loggers: list[Logger]
    default_root_dir: str
    accumulate_grad_batches: int
    lightning_module_or_none: LightningModule | None
    _attached: AttachedCallbacks
    _optimizers: list[Optimizer]

    if not TYPE_CHECKING:  # for type checkers what is not below is a mistake

        def __getattr__(self, name: str) -> Any:
            if name in OLDER_ATTRIBUTES:
                raise AttributeError(f"Trainer has no attribute {name!r}.{instead_of_attribute(name)}")
            return object.__getattribute__(self, name)  # raises again what brought us here

    # -- settings, resolved; they can be changed between runs -----------------------------------------------------

    max_epochs = Setting[int]()
    min_epochs = Setting[int]()
    max_steps = Setting[int]()
    min_steps = Setting[int]()
    gradient_clip_val = Setting[float | None]()
    gradient_clip_algorithm = Setting[str | None]()
    fast_dev_run = Setting[bool | int]()
    limit_train_batches = Setting[int | float | None]()
    limit_val_batches = Setting[int | float | None]()
    limit_test_batches = Setting[int | float | None]()
    limit_predict_batches = Setting[int | float | None]()
    overfit_batches = Setting[int | float]()
    log_every_n_steps = Setting[int]()
    check_val_every_n_epoch = Setting[int | None]()
    val_check_interval = Setting[int | float | None]()
    num_sanity_val_steps = Setting[int]()
    barebones = Setting[bool]()
    reload_dataloaders_every_n_epochs = Setting[int]()

    # -- progress ---------------------------------------------------------------------------------------------------

    @property
    def current_epoch(self) -> int:
        """The epoch now running, from 0; after a fit the number of epochs run."""
        return self.fit_loop.epoch

    @property
    def global_step(self) -> int:
        """Optimizer steps taken."""
        return self.engine.steps

    @property
    def is_last_batch(self) -> bool:
        """Whether the training batch now running is the last of its epoch."""
        return self.fit_loop.is_last_batch

    @property
    def num_training_batches(self) -> int | float:
        """Training batches in an epoch; ``math.inf`` when unknown."""
        return self.fit_loop.num_batches

    @property
    def num_val_batches(self) -> list[int | float]:
        """Validation batches per dataloader."""
        return (self.fit_loop.val_loop if self.state.fn == "fit" else self.validate_loop).num_batches

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        """Batches of the sanity check per dataloader."""
        return [min(self.settings.sanity_batches, batches) for batches in self.fit_loop.val_loop.num_batches]

    @property
    def num_test_batches(self) -> list[int | float]:
        """Test batches per dataloader."""
        return self.test_loop.num_batches

    @property
    def num_predict_batches(self) -> list[int | float]:
        """Prediction batches per dataloader."""
        return self.predict_loop.num_batches

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps a fit takes if nothing stops it; ``math.inf`` without limit. Asks for the dataloader."""
        if self.max_epochs == -1:
            return expected_steps(self.settings, math.inf, self.accumulate_grad_batches)
        self.fit_loop.setup_data()
        scheduled: Any = next(iter(self._with_role("accumulation")), None)
        return expected_steps(
            self.settings,
            self.num_training_batches,
            self.accumulate_grad_batches,
            None if scheduled is None else scheduled.steps_in,
        )

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether training batches are being run."""
        return self.state.stage is RunningStage.TRAINING

    @property
    def sanity_checking(self) -> bool:
        """Whether the validation before training is being run."""
        return self.state.stage is RunningStage.SANITY_CHECKING

    @property
    def validating(self) -> bool:
        """Whether validation is being run, within a fit or by itself."""
        return self.state.stage is RunningStage.VALIDATING

    @property
    def testing(self) -> bool:
        """Whether `test` is running."""
        return self.state.stage is RunningStage.TESTING

    @property
    def predicting(self) -> bool:
        """Whether `predict` is running."""
        return self.state.stage is RunningStage.PREDICTING

    @property
    def evaluating(self) -> bool:
        """Whether validation, the sanity check or test is being run."""
        return self.state.stage in (RunningStage.SANITY_CHECKING, RunningStage.VALIDATING, RunningStage.TESTING)

    @property
    def running(self) -> bool:
        """Whether an entry point of this trainer is running."""
        return self.state.stage is not None

    @property
    def interrupted(self) -> bool:
        """Whether the last entry point was cut short by an exception."""
        return self.state.status is TrainerStatus.INTERRUPTED

    # -- parts ------------------------------------------------------------------------------------------------------

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks in the order of their calls; changing the list changes the run."""
        return self._attached.list

    @callbacks.setter
    def callbacks(self, callbacks: list[Callback]) -> None:
        self._attached.list[:] = as_list(callbacks)

    @property
    def checkpoint_callbacks(self) -> list[Checkpoint]:
        """The callbacks that write checkpoints."""
        return [callback for callback in self.callbacks if isinstance(callback, Checkpoint)]

    @property
    def checkpoint_callback(self) -> Checkpoint | None:
        """The first of them."""
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def early_stopping_callbacks(self) -> list[Callback]:
        """The callbacks that stop training early."""
        return self._with_role("early_stopping")

    @property
    def early_stopping_callback(self) -> Callback | None:
        """The first of them."""
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def progress_bar_callback(self) -> Any:
        """The progress bar, if there is one."""
        return next(iter(self._with_role("progress_bar")), None)

    def _with_role(self, role: str) -> list[Callback]:
        return [callback for callback in self.callbacks if callback.role == role]

    @property
    def lightning_module(self) -> LightningModule:
        """The module of the last entry point called."""
        module = self.lightning_module_or_none
        if module is None:
            raise AttributeError("this Trainer has no module yet; call fit, validate, test or predict with one")
        return module

    @property
    def model(self) -> LightningModule | None:
        """The module, or None before the first entry point."""
        return self.lightning_module_or_none

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers of the fit, as ``configure_optimizers`` gave them; set them in `on_fit_start` if ever."""
        return self._optimizers

    @optimizers.setter
    def optimizers(self, optimizers: list[Optimizer]) -> None:
        self._optimizers = [unwrapped(optimizer) for optimizer in optimizers]
        self.engine.optimizers = [LightningOptimizer(optimizer, self.engine) for optimizer in self._optimizers]

    @property
    def logger(self) -> Logger | None:
        """The first logger."""
        return next(iter(self.loggers), None)

    @logger.setter
    def logger(self, logger: Logger | None) -> None:
        self.loggers = [] if logger is None else [logger]

    @property
    def log_dir(self) -> str | None:
        """The folder of the first logger; without a logger `default_root_dir`."""
        logger = self.logger
        return self.default_root_dir if logger is None else logger.log_dir or logger.save_dir

    @property
    def train_dataloader(self) -> Any:
        """What training reads, once it was asked for."""
        return None if self.fit_loop.source is None else self.fit_loop.source.loaders

    @property
    def val_dataloaders(self) -> Any:
        """What validation reads: one dataloader, or a list of them."""
        return _loaders_of(self.validate_loop if self.state.fn == "validate" else self.fit_loop.val_loop)

    @property
    def test_dataloaders(self) -> Any:
        """What test reads."""
        return _loaders_of(self.test_loop)

    @property
    def predict_dataloaders(self) -> Any:
        """What predict reads."""
        return _loaders_of(self.predict_loop)

    # -- processes and numbers --------------------------------------------------------------------------------------

    @property
    def precision(self) -> str:
        """ "32-true", "bf16-mixed", …"""
        return self.precision_plugin.name

    @property
    def num_devices(self) -> int:
        """Devices of this node."""
        return len(self.device_ids)

    @property
    def num_nodes(self) -> int:
        """Machines of this run."""
        return self._num_nodes

    @property
    def world_size(self) -> int:
        """Processes of this run."""
        return self.strategy.world_size

    @property
    def global_rank(self) -> int:
        """This process among all, from 0."""
        return self.strategy.global_rank

    @property
    def local_rank(self) -> int:
        """This process among those of its machine, from 0."""
        return self.strategy.local_rank

    @property
    def node_rank(self) -> int:
        """This machine among all, from 0."""
        return self.strategy.node_rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.strategy.is_global_zero

    @property
    def callback_metrics(self) -> MetricsDict:
        """Latest values for callbacks, as tensors by name; ``.step_of(name)`` says at which `global_step`."""
        return self.journal.callback_metrics

    @property
    def logged_metrics(self) -> MetricsDict:
        """Latest values sent to the loggers."""
        return self.journal.logged_metrics

    @property
    def progress_bar_metrics(self) -> MetricsDict:
        """Latest values for the progress bar."""
        return self.journal.progress_bar_metrics


mark_gone(TrainerProperties, {name: OLDER_ATTRIBUTES[name] for name in OF_CLASSES})


def _loaders_of(loop: Any) -> Any:
    if loop.source is None:
        return None
    return loop.source.loaders if loop.source.several else loop.source.loaders[0]
