"""Everything around an entry point: what is set up, restored, called and torn down, in this order, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from leyden.data.transfer import compile_transfer
from leyden.ending import end_well, note, tear_down, tell_of
from leyden.errors import SIGTERMException
from leyden.hooks.plan import Entry
from leyden.loops.boundaries import take_up_epoch
from leyden.optimizers import read_optimizers
from leyden.overrides import is_overridden
from leyden.rank_zero import rank_zero_warn
from leyden.run_state import RunningStage, TrainerFn, TrainerState, TrainerStatus
from leyden.runtime.alike import require_alike
from leyden.runtime.batchnorm import synchronise_batchnorm
from leyden.runtime.facts import facts_of_module
from leyden.runtime.meta import keeping_ties
from leyden.runtime.numerics import numerics
from leyden.runtime.signals import is_of_lost_workers
from leyden.state.callback_states import restore_callbacks
from leyden.state.checkpoint import (
    restore_loggers,
    restore_module,
    restore_progress,
    restore_training,
)
from leyden.state.lightning_format import from_lightning, is_of_lightning, warn_of_lightning
from leyden.state.processes import for_this_process
from leyden.state.resolve import read_checkpoint
from leyden.verification import verify

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["make_optimizers", "run"]

T = TypeVar("T")

_BEGIN_ALIKE = (
    "Call the same entry points of Trainers with the same arguments in every process: none by the rank, and none for "
    "trainer.is_global_zero alone."
)
_MAKE_ALIKE = "Make it with the same arguments in every process: let none of its layers depend on the rank."

_STAGES = {
    TrainerFn.FITTING: RunningStage.TRAINING,
    TrainerFn.VALIDATING: RunningStage.VALIDATING,
    TrainerFn.TESTING: RunningStage.TESTING,
    TrainerFn.PREDICTING: RunningStage.PREDICTING,
}


def run(trainer: Trainer, fn: TrainerFn, body: Callable[[], T], ckpt_path: Any, weights_only: bool | None) -> T:
    """Run `body`, the loop of an entry point, between setup and teardown.

    Whatever cuts it short is raised as it was, after `on_exception`, the loggers' end and the teardown of everyone
    whose setup ran; errors of these are logged and noted on it.
    """
    if trainer.forks:
        from leyden.forked_runs import run_in_forks

        return cast(T, run_in_forks(trainer, fn, lambda: run(trainer, fn, body, ckpt_path, weights_only)))
    trainer.state = TrainerState(fn, _STAGES[fn], TrainerStatus.RUNNING)
    trainer.should_stop = trainer.is_to_end = trainer.has_heard_end = False
    trainer.received_sigterm = trainer.attention_wanted = False
    trainer.strategy.is_torn = False
    set_up: list[Entry] = []
    outer = _attach(trainer)
    trainer.sigterm.start()
    try:
        try:
            trainer.strategy.begin(trainer.position, trainer.hear_sigterm, trainer.hear_end)
            trainer.strategy.check_alike("what they begin", partial(_begun_with, trainer), _BEGIN_ALIKE)
            if trainer.received_sigterm:  # before there was anybody to be told
                trainer.strategy.ask_to_stop()
            with numerics(trainer.settings):
                _prepare(trainer, ckpt_path, weights_only, set_up)
                result = _read_on(trainer, body)
                _end_together(trainer)
                if fn is TrainerFn.FITTING and trainer.plan.on_fit_end is not None:
                    trainer.plan.on_fit_end()
        except BaseException as raised:
            trainer.state.status = TrainerStatus.INTERRUPTED
            # SIGTERM is heeded by all at one place, except by who has lost the workers that read the next batch.
            trainer.strategy.is_torn = not isinstance(raised, SIGTERMException) or raised.__cause__ is not None
            error = trainer.strategy.explain(raised)
            tell_of(trainer, error)
            for problem, where in tear_down(trainer, set_up):
                note(error, problem, where)
            if error is raised:
                raise
            raise error from None  # it says what another process raised, to which this one's is a mere echo
        end_well(trainer, set_up)
        trainer.raise_on_sigterm()  # one that came while the run was ending: that is done, the process is asked to go
        trainer.state.status = TrainerStatus.FINISHED
    except BaseException:
        trainer.state.status = TrainerStatus.INTERRUPTED
        raise
    finally:
        trainer.sigterm.stop()
        trainer.state.stage = None
        _give_back(trainer, outer)
    if trainer.profiler is not None:
        trainer.profiler.describe()
    return result


def _begun_with(trainer: Trainer) -> dict[str, str]:
    """Return what decides what processes do together first; settings and callbacks are compared when all are known."""
    return {
        "the entry point": str(trainer.state.fn),
        "the strategy": type(trainer.strategy).__name__,
        "what it is given loaders for": str(
            sorted(name for name, one in trainer.given_loaders.items() if one is not None)
        ),
    }


def _end_together(trainer: Trainer) -> None:
    """Raise in every process when one was asked to end after its last batch."""
    if trainer.strategy.any_asked(trainer.received_sigterm):
        raise SIGTERMException()


def _read_on(trainer: Trainer, body: Callable[[], T]) -> T:
    """Run `body`; that there is no one left to read the next batch, after SIGTERM, is a matter of that signal."""
    try:
        return body()
    except RuntimeError as error:
        if trainer.received_sigterm and is_of_lost_workers(error):
            raise SIGTERMException() from error
        raise


def _attach(trainer: Trainer) -> tuple[Trainer | None, Trainer | None]:
    """Attach module and datamodule to `trainer`; return whose they are when this is called in a hook of that one."""
    module, datamodule = trainer.lightning_module, trainer.datamodule
    before = module._trainer, None if datamodule is None else datamodule.trainer
    module.trainer = trainer
    if datamodule is not None:
        datamodule.trainer = trainer
    of_module, of_data = (one if one is not None and one is not trainer and one.running else None for one in before)
    return of_module, of_data


def _give_back(trainer: Trainer, outer: tuple[Trainer | None, Trainer | None]) -> None:
    """Give module and datamodule back to the trainers that are still at work with them."""
    if outer[0] is not None:
        trainer.lightning_module.trainer = outer[0]
    if outer[1] is not None and trainer.datamodule is not None:
        trainer.datamodule.trainer = outer[1]


def _prepare(trainer: Trainer, ckpt_path: Any, weights_only: bool | None, set_up: list[Entry]) -> None:
    module, datamodule, plan = trainer.lightning_module, trainer.datamodule, trainer.plan
    fitting = trainer.state.fn is TrainerFn.FITTING
    trainer.journal.hook = "configure_callbacks"
    trainer.attach_module_callbacks(module.configure_callbacks())
    verify(trainer)
    if trainer.world_size > 1:
        require_alike(trainer)
    checkpoint = _read_checkpoint(trainer, ckpt_path, weights_only is not False)
    if checkpoint is not None and fitting:
        restore_loggers(trainer, checkpoint)
    if trainer.world_size > 1:
        for logger in trainer.loggers:
            logger.agree(trainer.strategy.broadcast)
    if plan.on_before_accelerator_backend_setup is not None:
        plan.on_before_accelerator_backend_setup()
    _prepare_data(trainer)
    _call_setup(trainer, set_up)
    trainer.journal.hook = "configure_model"
    module.configure_model()
    trainer.precision_plugin.convert_module(module)
    _let_callbacks_prepare(trainer, checkpoint)
    if checkpoint is not None:
        with keeping_ties(module):
            restore_module(trainer, checkpoint, str(trainer.ckpt_path))
        restore_callbacks(trainer, checkpoint)
    if plan.on_configure_sharded_model is not None:
        plan.on_configure_sharded_model()
    if trainer.settings.sync_batchnorm and trainer.world_size > 1:
        synchronise_batchnorm(module)
    trainer.strategy.check_alike("the module", partial(facts_of_module, module), _MAKE_ALIKE)
    trainer.strategy.setup_module(module)
    trainer.batch_transfer = compile_transfer(
        module, datamodule, trainer.strategy.root_device, trainer.precision_plugin.convert_input, trainer.journal
    )
    if fitting:
        _prepare_fit(trainer, checkpoint)
    _log_hyper_parameters(trainer)


def _read_checkpoint(trainer: Trainer, ckpt_path: Any, weights_only: bool) -> dict[str, Any] | None:
    """Read the checkpoint to go on from, if any, and refuse what no run can go on from."""
    trainer.ckpt_path = None
    found = read_checkpoint(trainer, ckpt_path, weights_only)
    if found is None:
        return None
    trainer.ckpt_path, checkpoint = found
    fits = trainer.state.fn is TrainerFn.FITTING
    checkpoint = for_this_process(checkpoint, trainer.global_rank, trainer.world_size, goes_on=fits)
    if is_of_lightning(checkpoint):
        checkpoint = from_lightning(checkpoint, trainer.accumulate_grad_batches)
        if fits:
            warn_of_lightning(checkpoint, trainer.ckpt_path)
    return take_up_epoch(trainer, checkpoint) if fits else checkpoint


def _prepare_fit(trainer: Trainer, checkpoint: dict[str, Any] | None) -> None:
    plan = trainer.plan
    if checkpoint is None:
        trainer.fit_loop.begin_anew()
    else:
        restore_progress(trainer, checkpoint, str(trainer.ckpt_path))
    make_optimizers(trainer)
    if plan.on_fit_start is not None:
        plan.on_fit_start()
    if checkpoint is not None:
        # After on_fit_start, since a callback may have to give an optimizer its parameter groups before its state fits.
        restore_training(trainer, checkpoint, str(trainer.ckpt_path))
    for hook in (plan.on_pretrain_routine_start, plan.on_pretrain_routine_end):
        if hook is not None:
            hook()


def make_optimizers(trainer: Trainer) -> None:
    """Let the trainer have what the module's ``configure_optimizers`` returns now."""
    module = trainer.lightning_module
    trainer.journal.hook = "configure_optimizers"
    trainer.optimizers, trainer.lr_scheduler_configs = read_optimizers(
        module.configure_optimizers(), type(module).__name__
    )
    if not trainer.optimizers and module.automatic_optimization:
        rank_zero_warn(
            f"{type(module).__name__}.configure_optimizers returned no optimizer, so that fit trains nothing."
        )
    trainer.strategy.check_optimizers(module, trainer.optimizers)
    trainer.engine.prepare(module, trainer.optimizers, trainer.module_overrides)


def _let_callbacks_prepare(trainer: Trainer, checkpoint: dict[str, Any] | None) -> None:
    """Let callbacks change what the module is made of, while neither weights nor optimizers depend on it."""
    trainer.journal.hook = "prepare_module"
    for callback in list(trainer.callbacks):
        if is_overridden("prepare_module", callback):
            prepare = partial(callback.prepare_module, trainer, trainer.lightning_module, checkpoint)
            trainer.guarded(callback, "prepare_module", prepare)()


def _prepare_data(trainer: Trainer) -> None:
    trainer.journal.hook = "prepare_data"
    if trainer.strategy.is_global_zero:
        if trainer.datamodule is not None:
            trainer.datamodule.prepare_data()
        trainer.lightning_module.prepare_data()
    trainer.strategy.barrier("prepare_data")


def _call_setup(trainer: Trainer, set_up: list[Entry]) -> None:
    """Call `setup` on datamodule, callbacks and module; keep the `teardown` of everyone whose setup has run.

    A callback that is added in another's setup gets its own.
    """
    stage = str(trainer.state.fn)
    datamodule = trainer.datamodule
    if datamodule is not None:
        trainer.journal.hook = "setup"
        datamodule.setup(stage)
        set_up.append(Entry(datamodule, datamodule.teardown))
    done: list[object] = []
    while waiting := [owner for owner in trainer.plan.owners() if not any(owner is one for one in done)]:
        owner = waiting[0]
        for entry in trainer.plan.entries("setup"):
            if entry.owner is owner:
                entry.call(stage)
        done.append(owner)
        set_up += [entry for entry in trainer.plan.entries("teardown") if entry.owner is owner]


def _log_hyper_parameters(trainer: Trainer) -> None:
    """Give the loggers what `save_hyperparameters` kept, of module and datamodule, and the module that is trained."""
    params: dict[str, Any] = {}
    for owner in (trainer.datamodule, trainer.lightning_module):
        if owner is not None and getattr(owner, "_log_hyperparams", True):
            params.update(owner.hparams_initial)
    for logger in trainer.loggers:
        logger.log_hyperparams(params)
        if trainer.state.fn is TrainerFn.FITTING:
            logger.log_graph(trainer.lightning_module)
        logger.save()
