"""The Trainer: settings in, four entry points, and where everything of a run can be found."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Never

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, UnknownArgumentError, did_you_mean
from leyden.hooks.attached import AttachedCallbacks
from leyden.hooks.findings import overrides
from leyden.hooks.isolation import Isolation
from leyden.hooks.ordering import Placed
from leyden.hooks.plan import Plan, Wrap
from leyden.inputs import take_inputs
from leyden.lifecycle import run
from leyden.loggers.choose import DummyLogger, choose_loggers
from leyden.logging.journal import Journal
from leyden.loops.evaluation import EvaluationLoop
from leyden.loops.fit import FitLoop
from leyden.loops.prediction import PredictionLoop
from leyden.module import LightningModule
from leyden.older_arguments import instead_of
from leyden.optimizers import LRSchedulerConfig
from leyden.profilers import Profiler, make_profiler
from leyden.run_state import TrainerFn, TrainerState
from leyden.runtime.chosen import choose_runtime
from leyden.runtime.engine import Engine
from leyden.runtime.module_init import module_init
from leyden.runtime.precision import Precision
from leyden.runtime.strategy import Strategy
from leyden.settings import Settings
from leyden.state.together import collect, write_together
from leyden.tables import evaluation_table
from leyden.trainer_callbacks import TrainerCallbacks
from leyden.trainer_ending import TrainerEnding
from leyden.types import EVALUATE_OUTPUT, PREDICT_OUTPUT

if TYPE_CHECKING:
    from leyden.datamodule import LightningDataModule
    from leyden.loggers import Logger

__all__ = ["Trainer"]


class Trainer(TrainerCallbacks, TrainerEnding):
    """Trains, validates, tests and predicts with a `LightningModule`.

    Every argument is checked here; ``docs`` and `leyden.settings.Settings` say what each may be. Batches are those of
    one process.

    Raises:
        UnknownArgumentError: an argument that does not exist, with the nearest name.
        MisconfigurationException: a value out of range, or callbacks that cannot work.

    Example:
        >>> import torch, leyden
        >>> class Line(leyden.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(1, 1)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         return (self.layer(batch) - 2 * batch).pow(2).mean()
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> trainer = leyden.Trainer(max_epochs=2, logger=False, discover_callbacks=False)
        >>> trainer.fit(Line(), [torch.ones(4, 1)] * 3)
        >>> trainer.global_step
        6
    """

    def __init__(
        self,
        *positional: Never,
        accelerator: str = "auto",
        strategy: str | Strategy = "auto",
        devices: int | str | list[int] = "auto",
        num_nodes: int = 1,
        precision: str | int | None = None,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: Callback | Iterable[Callback] | None = None,
        fast_dev_run: bool | int = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | Mapping[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = None,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | str | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Profiler | str | None = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Precision | Iterable[Precision] | None = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: str | os.PathLike[str] | None = None,
        discover_callbacks: bool = True,
        **unknown: Never,
    ) -> None:
        given = locals()
        if positional or unknown:
            raise _unknown_argument(positional, unknown)
        self.settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__})
        runtime = choose_runtime(
            accelerator, strategy, devices, num_nodes, precision, plugins, self.settings.sync_batchnorm
        )
        self.accelerator, self.device_ids, self._num_nodes = runtime.accelerator, runtime.device_ids, runtime.num_nodes
        self.strategy, self.precision_plugin, self.forks = runtime.strategy, runtime.precision, runtime.forks
        self.default_root_dir = _root_dir(default_root_dir)
        if barebones and profiler:
            raise MisconfigurationException(
                f"Trainer(barebones=True, profiler={profiler!r}): barebones runs the bare loop only; leave profiler "
                "out or barebones off."
            )
        self.profiler = make_profiler(profiler)
        self._init_run_state()
        self._make_loops()
        self.loggers = choose_loggers(
            logger, self.default_root_dir, off=barebones, dummy=bool(self.settings.fast_dev_run)
        )
        self._attach_callbacks(callbacks)

    def _init_run_state(self) -> None:
        self.state = TrainerState()
        self.lightning_module_or_none: LightningModule | None = None
        self.datamodule: LightningDataModule | None = None
        self.given_loaders: dict[str, Any] = {}
        self.batch_transfer: Callable[[Any, int], Any] | None = None
        self._optimizers = []
        self.lr_scheduler_configs: list[LRSchedulerConfig] = []
        self.accumulate_grad_batches = self.settings.accumulate_grad_batches
        self.ckpt_path: str | None = None
        self._ask_for_no_end()
        self._watching: list[Wrap] = []

    def _make_loops(self) -> None:
        self.journal = Journal(self)
        self.plan = Plan(self.journal)
        self.engine = Engine(self.plan, self.journal, self.precision_plugin, self.strategy, self.settings)
        self.fit_loop = FitLoop(self)
        self.validate_loop, self.test_loop = EvaluationLoop(self, "validate"), EvaluationLoop(self, "test")
        self.predict_loop = PredictionLoop(self)

    def aside(self, callbacks: Iterable[Callback], strategy: Strategy | None = None) -> Trainer:
        """Return a trainer with this one's settings, module and data, but `callbacks`, loops and metrics of its own.

        `strategy` is of the same device; without it this one's is shared.
        Its loggers take everything and keep nothing. For what is to be tried without a trace in the run:
        `leyden.loops.trial`.
        """
        aside = copy.copy(self)
        aside.settings, aside.state = copy.copy(self.settings), copy.copy(self.state)
        aside.profiler, aside.discovered = None, copy.copy(self.discovered)
        aside.loggers = [DummyLogger() for _ in self.loggers]
        aside._ask_for_no_end()
        aside.is_to_end = True  # when its own `should_stop` says so, which is no matter of other processes
        aside._watching = []
        aside.strategy = strategy or self.strategy
        aside._make_loops()
        attached = AttachedCallbacks([Placed(callback) for callback in callbacks], aside._compile_plan, aside.strategy)
        aside._attached = attached
        aside._isolation = Isolation(attached.of_environment, aside._users_parts, aside.plan.waiting, aside.switch_off)
        aside._compile_plan()
        return aside

    # -- entry points -----------------------------------------------------------------------------------------------

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train `model`, validating when due.

        Args:
            train_dataloaders: one iterable of batches, a collection of them or a `CombinedLoader`; else the
                datamodule's or module's.
            ckpt_path: checkpoint to go on from: a path, "best", "last", or "auto" for the newest whole one if there is
                one.
            weights_only: False lets a checkpoint run code while it is loaded: only for files you trust.
        """
        ckpt_path = take_inputs(
            self,
            "fit",
            model,
            datamodule,
            ckpt_path,
            train_dataloader=train_dataloaders,
            val_dataloader=val_dataloaders,
        )
        self.fit_loop.forget_data()
        run(self, TrainerFn.FITTING, self.fit_loop.run, ckpt_path, weights_only)

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> EVALUATE_OUTPUT:
        """Return the validation metrics, one dict per dataloader, and print them when `verbose`.

        Without `model` the one of the last fit is used, with the best checkpoint's weights where there is one.
        """
        return self._evaluate(
            self.validate_loop, TrainerFn.VALIDATING, model, dataloaders, ckpt_path, verbose, datamodule, weights_only
        )

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> EVALUATE_OUTPUT:
        """Return the test metrics, as `validate` does the validation's."""
        return self._evaluate(
            self.test_loop, TrainerFn.TESTING, model, dataloaders, ckpt_path, verbose, datamodule, weights_only
        )

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> PREDICT_OUTPUT | None:
        """Return what ``predict_step`` gives per batch, in a list per dataloader where there are several."""
        ckpt_path = take_inputs(self, "predict", model, datamodule, ckpt_path, predict_dataloader=dataloaders)
        loop = self.predict_loop
        loop.source = None

        def body() -> PREDICT_OUTPUT | None:
            self.journal.clear()  # nothing is logged here: what there is would be of another run
            loop.setup_data()
            return loop.run(return_predictions is not False)

        return run(self, TrainerFn.PREDICTING, body, ckpt_path, weights_only)

    def _evaluate(
        self, loop: EvaluationLoop, fn: TrainerFn, model: Any, dataloaders: Any, ckpt_path: Any, verbose: bool,
        datamodule: Any,
        weights_only: bool | None,
    ) -> EVALUATE_OUTPUT:  # fmt: skip
        name = "val_dataloader" if fn is TrainerFn.VALIDATING else "test_dataloader"
        ckpt_path = take_inputs(self, str(fn), model, datamodule, ckpt_path, **{name: dataloaders})
        loop.source = None

        def body() -> EVALUATE_OUTPUT:
            loop.setup_data()
            return loop.run()

        results = run(self, fn, body, ckpt_path, weights_only)
        if verbose and any(results):
            self.print(evaluation_table(str(fn), results))
        return results

    # -- beside the entry points ------------------------------------------------------------------------------------

    def save_checkpoint(self, filepath: str | os.PathLike[str], weights_only: bool | None = False) -> None:
        """Write the run, or with `weights_only` its weights, to `filepath`; the file is whole or not there at all.

        With several processes all call it.
        """
        if self.forks and not weights_only:
            raise MisconfigurationException(
                "Trainer.save_checkpoint: the optimizers were in the processes that trained, which are gone. Let a "
                "ModelCheckpoint write while they train, or save the weights: save_checkpoint(path, weights_only=True)."
            )
        if self.lightning_module_or_none is None:
            raise MisconfigurationException(
                "Trainer.save_checkpoint: there is no model yet; call fit, validate, test or predict first."
            )
        try:
            write_together(self, collect(self, bool(weights_only)), filepath)
        except Exception as error:
            told = error if self.running else self.strategy.explain_between_runs(error)
            if told is error:
                raise
            raise told from error

    def init_module(self, empty_init: bool | None = None) -> AbstractContextManager[None]:
        """Make the tensors of a module built within on the run's device and in its precision from the start.

        Args:
            empty_init: True leaves weights as the memory holds them, for a checkpoint that will fill them anyway.
        """
        return module_init(self.strategy.root_device, self.precision_plugin, bool(empty_init))

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print in one process only, and without tearing a progress bar."""
        if not self.is_global_zero:
            return
        bar = self.progress_bar_callback
        printer = getattr(bar, "print", None)
        if callable(printer) and self.state.stage is not None:
            self.guarded(bar, "print", partial(printer, *args, **kwargs))()
            if bar is self.progress_bar_callback:
                return
        print(*args, **kwargs)  # also what a bar failed to print, and was switched off for

    def module_overrides(self, name: str) -> bool:
        """Whether the module has a hook or step of its own under this name."""
        return overrides(self.lightning_module, name)


def _root_dir(given: Any) -> str:
    if given is None:
        return os.getcwd()
    if not isinstance(given, str | os.PathLike):
        raise MisconfigurationException(f"Trainer(default_root_dir={given!r}): expected the path of a folder or None.")
    return os.fspath(given)


def _unknown_argument(positional: tuple[object, ...], unknown: dict[str, Any]) -> UnknownArgumentError:
    known = [p.name for p in inspect.signature(Trainer.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if positional:
        first = positional[0]
        name = "max_epochs" if isinstance(first, int) else "callbacks" if isinstance(first, Callback | list) else "name"
        return UnknownArgumentError(
            f"Trainer({first!r:.80}): arguments are given by keyword only, such as Trainer({name}=...)."
        )
    name = next(iter(unknown))
    return UnknownArgumentError(f"Trainer() has no argument {name!r}.{instead_of(name) or did_you_mean(name, known)}")
