"""Entry points in forks of this process, and what of them comes back to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from leyden.callback import Callback
from leyden.loggers.folder import FolderLogger
from leyden.run_state import TrainerFn, TrainerState, TrainerStatus
from leyden.runtime.device import root_device
from leyden.runtime.forking import check_can_fork, run_forked
from leyden.runtime.launching import end_with_launcher
from leyden.runtime.places import place_of

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["run_in_forks"]


def run_in_forks(trainer: Trainer, fn: TrainerFn, run: Callable[[], Any]) -> Any:
    """Call `run`, an entry point, in a fork for each device; let `trainer` and its module be as that of process 0.

    Weights, callbacks' states, metrics, progress and the trainer's state come back. Optimizers do not, and neither
    does what module and callbacks keep besides. Predictions are those of all processes, a batch of each in turn.
    """
    check_can_fork(f"Trainer.{fn}", trains=fn is TrainerFn.FITTING)
    module = trainer.lightning_module
    trainer.attach_module_callbacks(module.configure_callbacks())  # of which the states come back, too

    def work() -> dict[str, Any]:
        _take_place(trainer)
        result = run()
        source = trainer.predict_loop.source
        return {**_outcome(trainer, result), "several": source is not None and source.several}

    outcomes, error = run_forked(len(trainer.device_ids), work, lambda: _outcome(trainer, None))
    if outcomes[0] is not None:
        _take(trainer, outcomes[0])
    if error is not None:
        trainer.state.status = TrainerStatus.INTERRUPTED
        raise error
    results = [outcome["result"] for outcome in outcomes]
    if fn is not TrainerFn.PREDICTING or any(result is None for result in results):
        return results[0]
    return _of_all(results, outcomes[0]["several"])


def _take_place(trainer: Trainer) -> None:
    """Become the process of the run that the launcher says this fork is."""
    place = place_of()
    assert place is not None
    trainer.forks = False
    end_with_launcher()
    trainer.strategy.connect(root_device(trainer.accelerator, trainer.device_ids[place.local_rank]), place)


def _outcome(trainer: Trainer, result: Any) -> dict[str, Any]:
    trainer.strategy.is_torn = True  # each process goes its own way from here on
    if trainer.global_rank != 0:
        return {"result": result}
    states = {}
    for entry in trainer.plan.entries("state_dict"):
        if state := entry.call():
            states[cast(Callback, entry.owner).state_key] = state
    return {
        "result": result,
        "weights": trainer.lightning_module.state_dict(),
        "callbacks": states,
        "metrics": trainer.journal.metrics(),
        "progress": trainer.fit_loop.live_state_dict(),
        "steps": trainer.engine.steps,
        "state": asdict(trainer.state),
        "should_stop": trainer.should_stop,
        "ckpt_path": trainer.ckpt_path,
        "loggers": [logger.place() if isinstance(logger, FolderLogger) else None for logger in trainer.loggers],
    }


def _take(trainer: Trainer, outcome: dict[str, Any]) -> None:
    module = trainer.lightning_module
    module.configure_model()
    trainer.precision_plugin.convert_module(module)
    module.load_state_dict(outcome["weights"])
    trainer.state = TrainerState(**outcome["state"])
    for entry in [*trainer.plan.entries("on_load_state"), *trainer.plan.entries("load_state_dict")]:
        state = outcome["callbacks"].get(cast(Callback, entry.owner).state_key)
        if state is not None:
            entry.call(state)
    trainer.journal.show(outcome["metrics"])
    trainer.fit_loop.load_state_dict(outcome["progress"])
    trainer.engine.steps = outcome["steps"]
    trainer.should_stop, trainer.ckpt_path = outcome["should_stop"], outcome["ckpt_path"]
    for logger, place in zip(trainer.loggers, outcome["loggers"], strict=True):
        if place is not None and isinstance(logger, FolderLogger):
            logger.take_place(place)


def _of_all(results: Sequence[Any], several: bool) -> Any:
    """Return the predictions of all processes: of each dataloader a batch of each process in turn."""
    if several:
        return [_in_turn([result[index] for result in results]) for index in range(len(results[0]))]
    return _in_turn(results)


def _in_turn(batches: Sequence[list[Any]]) -> list[Any]:
    return [one[index] for index in range(max(map(len, batches))) for one in batches if index < len(one)]
