"""The Trainer: settings in, four entry points, and where everything of a run can be found."""

from __future__ import annotations

import copy
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Never

from leyden.callback import Callback
from leyden.errors import MisconfigurationException, SIGTERMException, UnknownArgumentError, did_you_mean
from leyden.hooks.attached import AttachedCallbacks, as_list
from leyden.hooks.binding import Call
from leyden.hooks.findings import overrides
from leyden.hooks.isolation import Isolation
from leyden.hooks.ordering import Ordered, Placed
from leyden.hooks.plan import Plan, Wrap, call_init_hooks
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
from leyden.rank_zero import rank_zero_warn
from leyden.run_state import TrainerFn, TrainerState
from leyden.runtime.batchnorm import check_sync_batchnorm
from leyden.runtime.choose import choose_strategy
from leyden.runtime.device import choose_accelerator, choose_devices, root_device
from leyden.runtime.engine import Engine
from leyden.runtime.forking import check_can_fork, is_forked
from leyden.runtime.launching import check_can_launch, end_with_launcher, launch_script
from leyden.runtime.module_init import module_init
from leyden.runtime.places import Place, choose_num_nodes, place_of, warn_of_idle_tasks, warn_of_restarts
from leyden.runtime.precision import Precision, choose_precision
from leyden.runtime.signals import SigtermListener
from leyden.runtime.strategy import Strategy
from leyden.settings import Settings
from leyden.state.together import collect, write_together
from leyden.tables import evaluation_table, render_table
from leyden.trainer_properties import TrainerProperties
from leyden.types import EVALUATE_OUTPUT, PREDICT_OUTPUT

if TYPE_CHECKING:
    from leyden.datamodule import LightningDataModule
    from leyden.discovery import SwitchedOff
    from leyden.loggers import Logger

__all__ = ["Trainer"]


class Trainer(TrainerProperties):
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
        self._choose_runtime(
            accelerator, devices, num_nodes, precision if plugins is None else _precision_in(plugins), strategy
        )
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

    def _choose_runtime(self, accelerator: str, devices: Any, num_nodes: int, precision: Any, strategy: Any) -> None:
        self.forks = is_forked(strategy)
        self.accelerator = choose_accelerator(accelerator)
        place = place_of()
        self.device_ids = choose_devices(devices, self.accelerator, None if place is None else place.local_world_size)
        self._num_nodes = choose_num_nodes(num_nodes, place)
        self.strategy = choose_strategy(strategy, len(self.device_ids) if place is None else place.world_size)
        self.forks = self.forks and place is None and len(self.device_ids) > 1
        if self.forks:
            check_can_fork(f"Trainer(devices={devices!r}, strategy={strategy!r})", trains=False)
            processes = len(self.device_ids)
            place = Place(0, 0, 0, processes, processes, "leyden", "127.0.0.1", 0)  # until it forks
            self.strategy.is_torn = True
        elif place is None and len(self.device_ids) > 1:
            check_can_launch(f"Trainer(devices={devices!r})")
            launch_script(len(self.device_ids))
        elif place is None:
            warn_of_idle_tasks()
        elif place.launcher == "leyden" or "TORCHELASTIC_RUN_ID" in os.environ:
            end_with_launcher()
            warn_of_restarts()
        own = self.device_ids[0 if place is None else place.local_rank]
        self.strategy.connect(root_device(self.accelerator, own), place)
        self.precision_plugin = choose_precision(precision, self.strategy.root_device.type)
        self.strategy.precision = self.precision_plugin
        check_sync_batchnorm(self.settings.sync_batchnorm, self.strategy)

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
        self.received_sigterm = self.attention_wanted = self._should_stop = False
        self.is_to_end = self.has_heard_end = False
        self.sigterm = SigtermListener(self.hear_sigterm)
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
        aside.received_sigterm = aside.attention_wanted = aside._should_stop = False
        aside.is_to_end = True  # when its own `should_stop` says so, which is no matter of other processes
        aside.sigterm = SigtermListener(aside.hear_sigterm)
        aside._watching = []
        aside.strategy = strategy or self.strategy
        aside._make_loops()
        attached = AttachedCallbacks([Placed(callback) for callback in callbacks], aside._compile_plan, aside.strategy)
        aside._attached = attached
        aside._isolation = Isolation(attached.of_environment, aside._users_parts, aside.plan.waiting, aside._switch_off)
        aside._compile_plan()
        return aside

    def _attach_callbacks(self, callbacks: Any) -> None:
        given = as_list(callbacks)
        settings = self.settings
        if settings.max_time is not None:
            given += _timer(settings.max_time, given)
        attached = AttachedCallbacks([Placed(callback) for callback in given], self._compile_plan, self.strategy)
        call_init_hooks(given, "on_init_start", self)
        self._attached = attached
        if settings.enable_checkpointing is False and self.checkpoint_callbacks:
            name = type(self.checkpoint_callbacks[0]).__name__
            raise MisconfigurationException(
                f"Trainer(enable_checkpointing=False, callbacks=[{name}(...)]) contradict each other; leave one of "
                "them out."
            )
        if settings.accumulate_grad_batches != 1 and (scheduled := self._with_role("accumulation")):
            raise MisconfigurationException(
                f"Trainer(accumulate_grad_batches={settings.accumulate_grad_batches}, callbacks=["
                f"{type(scheduled[0]).__name__}(...)]) contradict each other, since both say how many batches an "
                "optimizer step has; leave one of them out."
            )
        self._isolation = Isolation(attached.of_environment, self._users_parts, self.plan.waiting, self._switch_off)
        from leyden.discovery import attach_discovered

        self.discovered = attach_discovered(self, attached, given)
        self._compile_plan()
        call_init_hooks(list(self.callbacks), "on_init_end", self, wrap=self._isolation.wrap)

    def attach_module_callbacks(self, callbacks: Any) -> None:
        """Attach what a module's ``configure_callbacks`` returned, and compile the plan of the run's hooks."""
        self._attached.take_from_module(as_list(callbacks))
        self._compile_plan()

    def _compile_plan(self) -> None:
        callbacks = self._attached.called_in(None if self.state.fn is None else str(self.state.fn))
        meetings = self.journal.meetings() if self.world_size > 1 else {}
        self.plan.compile(self, self.lightning_module_or_none, callbacks, wrap=self._wrap, meetings=meetings)

    def watch_hooks(self, wrap: Wrap) -> Callable[[], None]:
        """Let `wrap` stand around every call of a hook from now on, and return what takes it away again.

        `wrap` gets the owner (a callback or the module), the hook's name and the call, and returns the call to make. It
        is asked when the plan is compiled; where nobody watches, nothing is added. `leyden.testing.record_hooks` does.
        """
        self._watching.append(wrap)
        self._compile_plan()

        def end() -> None:
            if wrap in self._watching:
                self._watching.remove(wrap)
                self._compile_plan()

        return end

    def _wrap(self, owner: object, hook: str, call: Call) -> Call:
        for watch in self._watching:  # innermost: what a guard keeps from being called is not seen
            call = watch(owner, hook, call)
        measured = call if self.profiler is None else self.profiler.wrap(owner, hook, call)
        return self._isolation.wrap(owner, hook, measured)

    def guarded(self, callback: Callback, what: str, call: Call) -> Call:
        """Return `call`, a method of `callback` that is no hook, isolated like one if the environment attached it."""
        return self._isolation.guard(callback, what, call)

    def _users_parts(self) -> list[object]:
        """The module, the datamodule and the callbacks that raise as ever."""
        own = [callback for callback in self.callbacks if self._attached.of_environment(callback) is None]
        return [part for part in (self.lightning_module_or_none, self.datamodule, *own) if part is not None]

    def _switch_off(self, callback: Callback, event: SwitchedOff) -> None:
        self.discovered.switched_off.append(event)
        self._attached.drop(callback)
        self._compile_plan()

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
        write_together(self, collect(self, bool(weights_only)), filepath)

    def init_module(self, empty_init: bool | None = None) -> AbstractContextManager[None]:
        """Make the tensors of a module built within on the run's device and in its precision from the start.

        Args:
            empty_init: True leaves weights as the memory holds them, for a checkpoint that will fill them anyway.
        """
        return module_init(self.strategy.root_device, self.precision_plugin, bool(empty_init))

    def describe_callbacks(self) -> list[Ordered]:
        """Print and return the callbacks in the order of their calls, each with the reason for its place."""
        rows = [
            [str(place), type(o.callback).__name__, o.placed.distribution or o.placed.source, o.reason]
            for place, o in enumerate(self._attached.ordered, start=1)
        ]
        self.print(
            render_table(["", "callback", "from", "reason"], rows, title="Callbacks, in the order of their calls")
        )
        return list(self._attached.ordered)

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

    def raise_on_sigterm(self) -> None:
        """Raise `SIGTERMException` when the process was asked to end; called between batches.

        Processes that train together are all asked, and end behind the same batch.
        """
        if self.received_sigterm and self.strategy.stops_behind(self.position()[0]):
            raise SIGTERMException()

    def position(self) -> tuple[float, float]:
        """Return the batches of the entry point that are done, and from where on processes may have others left.

        That is told by all processes in the same way. Validation within a fit does not count.
        """
        if self.state.fn is TrainerFn.FITTING:
            return self.fit_loop.batches_seen, math.inf
        loops = {
            TrainerFn.VALIDATING: self.validate_loop,
            TrainerFn.TESTING: self.test_loop,
            TrainerFn.PREDICTING: self.predict_loop,
        }
        return loops[self.state.fn or TrainerFn.VALIDATING].position()

    def ends_here(self, place: float) -> bool:
        """Whether training is to end at this place, in batches done, as somebody asked for by `should_stop`.

        Processes that train together agree on the place, whoever of them asked.
        """
        asked = self._should_stop or self.has_heard_end
        if asked and not self.is_to_end and self.strategy.ends_behind(place):
            self._should_stop = self.is_to_end = True
        return self.is_to_end and self._should_stop

    def ends_with_epoch(self) -> bool:
        """Whether training is to end now that an epoch has; asked by all processes at one place."""
        if not self.is_to_end and self.strategy.reduce_boolean_decision(self._should_stop, all=False):
            self._should_stop = self.is_to_end = True
        return self.is_to_end and self._should_stop

    def hear_end(self) -> None:
        """Take note that another process has asked for the end of training."""
        self.has_heard_end = self.attention_wanted = True

    def hear_sigterm(self) -> None:
        """Take note that this process, or another of the run, was asked to end."""
        self.received_sigterm = self.attention_wanted = True
        self.strategy.ask_to_stop()


def _root_dir(given: Any) -> str:
    if given is None:
        return os.getcwd()
    if not isinstance(given, str | os.PathLike):
        raise MisconfigurationException(f"Trainer(default_root_dir={given!r}): expected the path of a folder or None.")
    return os.fspath(given)


def _precision_in(plugins: Any) -> Precision:
    given = as_list(plugins)
    if len(given) != 1 or not isinstance(given[0], Precision):
        raise MisconfigurationException(
            f"Trainer(plugins={plugins!r:.80}): expected one leyden.runtime.precision.Precision; choose among those "
            "there are by precision=."
        )
    return given[0]


def _timer(max_time: Any, given: list[Any]) -> list[Callback]:
    try:
        from leyden.callbacks import Timer
    except ImportError as error:
        raise ImportError(f"Trainer(max_time={max_time!r}) is kept by a callback: {error}", name=error.name) from None
    if any(isinstance(callback, Timer) for callback in given):
        rank_zero_warn(f"Trainer(max_time={max_time!r}) is ignored, since callbacks= holds a Timer; leave one out.")
        return []
    try:
        return [Timer(duration=max_time)]
    except MisconfigurationException as error:
        raise MisconfigurationException(f"Trainer(max_time={max_time!r}): {error}") from error


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
