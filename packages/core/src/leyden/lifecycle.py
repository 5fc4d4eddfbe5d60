"""Everything around an entry point: what is set up, restored, called and torn down, in this order, whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from leyden.data.transfer import compile_transfer
from leyden.hooks.plan import Entry
from leyden.optimizers import read_optimizers
from leyden.rank_zero import rank_zero_warn
from leyden.run_state import RunningStage, TrainerFn, TrainerState, TrainerStatus
from leyden.runtime.numerics import numerics
from leyden.state.checkpoint import restore_callbacks, restore_module, restore_progress, restore_training
from leyden.state.resolve import resolve_checkpoint
from leyden.state.storage import load
from leyden.verification import verify

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["run"]

T = TypeVar("T")
_log = logging.getLogger("leyden")

_STAGES = {
    TrainerFn.FITTING: RunningStage.TRAINING,
    TrainerFn.VALIDATING: RunningStage.VALIDATING,
    TrainerFn.TESTING: RunningStage.TESTING,
    TrainerFn.PREDICTING: RunningStage.PREDICTING,
}


def run(trainer: Trainer, fn: TrainerFn, body: Callable[[], T], ckpt_path: Any, weights_only: bool | None) -> T:
    """Run `body`, the loop of an entry point, between setup and teardown.

    Whatever cuts it short is raised as it was, after `on_exception`, the loggers' end and the teardown of everyone
    whose
    setup ran; errors of these are logged and noted on it.
    """
    trainer.state = TrainerState(fn, _STAGES[fn], TrainerStatus.RUNNING)
    trainer.should_stop = False
    trainer.received_sigterm = trainer.attention_wanted = False
    set_up: list[object] = []
    trainer.sigterm.start()
    try:
        with numerics(trainer.settings):
            _prepare(trainer, ckpt_path, weights_only, set_up)
            result = body()
            if fn is TrainerFn.FITTING and trainer.plan.on_fit_end is not None:
                trainer.plan.on_fit_end()
    except BaseException as error:
        trainer.state.status = TrainerStatus.INTERRUPTED
        _tell_of(trainer, error)
        for problem in _tear_down(trainer, set_up):
            _note(error, problem)
        raise
    else:
        problems = _tear_down(trainer, set_up)
        if problems:
            trainer.state.status = TrainerStatus.INTERRUPTED
            for problem in problems[1:]:
                _note(problems[0], problem)
            raise problems[0]
        for logger in trainer.loggers:
            logger.finalize("success")
        trainer.state.status = TrainerStatus.FINISHED
        return result
    finally:
        trainer.sigterm.stop()
        trainer.state.stage = None


def _prepare(trainer: Trainer, ckpt_path: Any, weights_only: bool | None, set_up: list[object]) -> None:
    module, datamodule, plan, fitting = (
        trainer.lightning_module,
        trainer.datamodule,
        trainer.plan,
        trainer.state.fn == "fit",
    )
    trainer.journal.hook = "configure_callbacks"
    trainer.attach_module_callbacks(module.configure_callbacks())
    verify(trainer)
    trainer.ckpt_path = resolve_checkpoint(trainer, ckpt_path)
    checkpoint = None
    if trainer.ckpt_path is not None:
        checkpoint = load(trainer.ckpt_path, map_location="cpu", weights_only=weights_only is not False)
    if plan.on_before_accelerator_backend_setup is not None:
        plan.on_before_accelerator_backend_setup()
    _prepare_data(trainer)
    _call_setup(trainer, set_up)
    trainer.journal.hook = "configure_model"
    module.configure_model()
    trainer.precision_plugin.convert_module(module)
    if checkpoint is not None:
        restore_module(trainer, checkpoint, str(trainer.ckpt_path))
        if fitting:
            restore_callbacks(trainer, checkpoint)
    if plan.on_configure_sharded_model is not None:
        plan.on_configure_sharded_model()
    trainer.strategy.setup_module(module)
    trainer.batch_transfer = compile_transfer(
        module, datamodule, trainer.strategy.root_device, trainer.precision_plugin.convert_input
    )
    if fitting:
        _prepare_fit(trainer, checkpoint)
    _log_hyper_parameters(trainer)


def _prepare_fit(trainer: Trainer, checkpoint: dict[str, Any] | None) -> None:
    plan, module = trainer.plan, trainer.lightning_module
    if checkpoint is None:
        trainer.fit_loop.begin_anew()
    else:
        restore_progress(trainer, checkpoint, str(trainer.ckpt_path))
    trainer.journal.hook = "configure_optimizers"
    trainer.optimizers, trainer.lr_scheduler_configs = read_optimizers(module.configure_optimizers())
    if not trainer.optimizers and module.automatic_optimization:
        rank_zero_warn(
            f"{type(module).__name__}.configure_optimizers returned no optimizer, so that fit trains nothing."
        )
    trainer.engine.prepare(module, trainer.optimizers, trainer.module_overrides)
    if plan.on_fit_start is not None:
        plan.on_fit_start()
    if checkpoint is not None:
        # After on_fit_start, since a callback may have to give an optimizer its parameter groups before its state fits.
        restore_training(trainer, checkpoint, str(trainer.ckpt_path))
    for hook in (plan.on_pretrain_routine_start, plan.on_pretrain_routine_end):
        if hook is not None:
            hook()


def _prepare_data(trainer: Trainer) -> None:
    trainer.journal.hook = "prepare_data"
    if trainer.strategy.is_global_zero:
        if trainer.datamodule is not None:
            trainer.datamodule.prepare_data()
        trainer.lightning_module.prepare_data()
    trainer.strategy.barrier("prepare_data")


def _call_setup(trainer: Trainer, set_up: list[object]) -> None:
    """Call `setup` on datamodule, callbacks and module; remember whose has run."""
    stage = str(trainer.state.fn)
    calls = {id(entry.owner): entry for entry in trainer.plan.entries("setup")}
    if trainer.datamodule is not None:
        trainer.journal.hook = "setup"
        trainer.datamodule.setup(stage)
        set_up.append(trainer.datamodule)
    for owner in trainer.plan.owners():
        if id(owner) in calls:
            calls[id(owner)].call(stage)
        set_up.append(owner)


def _tear_down(trainer: Trainer, set_up: list[object]) -> list[BaseException]:
    """Call `teardown` on everyone whose setup ran; return what it raised."""
    stage = str(trainer.state.fn)
    problems: list[BaseException] = []
    entries = {id(entry.owner): entry for entry in trainer.plan.entries("teardown")}
    calls = [entries[id(owner)] for owner in set_up if id(owner) in entries]
    if trainer.datamodule is not None and trainer.datamodule in set_up:
        calls.append(Entry(trainer.datamodule, trainer.datamodule.teardown))
    for entry in calls:
        try:
            entry.call(stage)
        except BaseException as problem:
            _log.exception("teardown of %s failed", type(entry.owner).__name__)
            problems.append(problem)
    trainer.strategy.teardown()
    return problems


def _tell_of(trainer: Trainer, error: BaseException) -> None:
    """Tell callbacks, datamodule and loggers that the run is cut short."""
    plan = trainer.plan
    calls: list[tuple[str, Callable[[], Any]]] = []
    if isinstance(error, KeyboardInterrupt) and plan.on_keyboard_interrupt is not None:
        calls.append(("on_keyboard_interrupt", plan.on_keyboard_interrupt))
    for entry in plan.entries("on_exception"):
        calls.append((f"{type(entry.owner).__name__}.on_exception", partial(entry.call, error)))
    if trainer.datamodule is not None:
        datamodule = trainer.datamodule
        calls.append((f"{type(datamodule).__name__}.on_exception", partial(datamodule.on_exception, error)))
    for logger in trainer.loggers:
        calls.append((f"{type(logger).__name__}.finalize", partial(logger.finalize, "failed")))
    for name, call in calls:
        try:
            call()
        except BaseException as problem:
            _log.exception("%s failed while the run was ending with %s", name, type(error).__name__)
            _note(error, problem, name)


def _note(error: BaseException, problem: BaseException, where: str = "teardown") -> None:
    error.add_note(f"While this was handled, {where} raised {type(problem).__name__}: {problem}")


def _log_hyper_parameters(trainer: Trainer) -> None:
    """Give the loggers what `save_hyperparameters` kept, of module and datamodule."""
    params: dict[str, Any] = {}
    for owner in (trainer.datamodule, trainer.lightning_module):
        if owner is not None and getattr(owner, "_log_hyperparams", True):
            params.update(owner.hparams_initial)
    for logger in trainer.loggers:
        logger.log_hyperparams(params)
        logger.save()
