"""The run as it was before something that a run which goes on from here does again, since an exception cut it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from leyden.callback import Callback
from leyden.loops.schedule import reached
from leyden.runtime.engine import needs_closure

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["Begun", "Boundary", "boundary_of", "take_up_epoch"]

Begun = Literal[
    "epoch", "batch", "epoch_end", "validation", "validation_batch", "validation_epoch_end", "validation_end"
]
"""What begins at a boundary: an epoch or a validation (with the hooks of its start), a batch, the hooks of an end."""

_HOOKS: dict[Begun, tuple[str, ...]] = {
    "epoch": ("on_train_epoch_start", "on_epoch_start"),
    "batch": (
        "on_batch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
        "on_before_optimizer_step",
    ),
    "epoch_end": ("on_train_epoch_end", "on_epoch_end"),
    "validation": ("on_validation_start", "on_validation_epoch_start", "on_epoch_start"),
    "validation_batch": ("on_validation_batch_start",),
    "validation_epoch_end": ("on_validation_epoch_end", "on_epoch_end"),
    "validation_end": ("on_validation_end",),
}  # fmt: skip
"""The hooks that are called again: those who have one of them had their states changed by it."""


@dataclass(slots=True)
class Boundary:
    """What a run was before `begun`.

    Trained weights are in it only where an optimizer takes a step by calling the training step several times, as LBFGS
    does: an exception there leaves half a step. Any other has not begun its step when the training step fails.

    Attributes:
        begun: what began then.
        progress: what the fit's `state_dict` was.
        run: its random numbers, running metrics and gradients.
        weights: the module's buffers, by name, and those weights.
        loggers: the `mark` of each logger.
        callbacks: the states of those callbacks that the hooks called again may change, by key.
        optimizer_states: where hooks may change the parameter groups, as finetuning does; else None.
        lr_schedulers: likewise.
    """

    begun: Begun | None
    progress: dict[str, Any]
    run: Mapping[str, Any]
    weights: dict[str, Any] = field(default_factory=dict)
    loggers: list[dict[str, Any]] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)
    optimizer_states: list[Any] | None = None
    lr_schedulers: list[Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """This as plain data, without copies."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def put_back(self, checkpoint: dict[str, Any]) -> None:
        """Let `checkpoint`, in which callbacks have their states already, hold the run as it was here."""
        for name in ("optimizer_states", "lr_schedulers"):
            if getattr(self, name) is not None:
                checkpoint[name] = getattr(self, name)
        for index, mark in enumerate(self.loggers):
            checkpoint["loggers"][index] = {**checkpoint["loggers"][index], **mark}
        for key, state in self.callbacks.items():
            if state:
                checkpoint["callbacks"][key] = state
            else:
                checkpoint["callbacks"].pop(key, None)


def take_up_epoch(trainer: Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return `checkpoint` as of before its last epoch's end, where a limit had cut that short and is there no more.

    With a larger `max_steps`, say, the run goes on within the epoch, as if the limit had never been.
    """
    # What is no progress of a fit is told of where it is restored, as all that does not fit.
    settings, short = trainer.settings, checkpoint["loops"].get("fit_loop", {}).get("cut_short")
    if short is None or reached(int(checkpoint["global_step"]), settings.max_steps):
        return checkpoint
    boundary = Boundary(**short)
    earlier = {
        **checkpoint,
        **boundary.run,
        "epoch": boundary.progress["epoch"],
        "loops": {**checkpoint["loops"], "fit_loop": boundary.progress},
        "callbacks": dict(checkpoint["callbacks"]),
        "loggers": list(checkpoint["loggers"]),
        "state_dict": {**checkpoint["state_dict"], **boundary.weights},
    }
    boundary.put_back(earlier)
    return earlier


def boundary_of(trainer: Trainer, begun: Begun) -> Boundary:
    """Return the run as it is now, before `begun`. Kept short, since it is done before every batch."""
    loop = trainer.fit_loop
    run = loop.live_run_state()
    run["gradients"] = {name: gradient.clone() for name, gradient in run["gradients"].items()}
    boundary = Boundary(
        begun,
        loop.live_state_dict(),
        run,
        {name: buffer.clone() for name, buffer in trainer.lightning_module.named_buffers()},
        [logger.mark() for logger in trainer.loggers],
        _states(trainer, begun),
    )
    if begun not in ("batch", "validation_batch"):  # tensors in them change in an optimizer's step alone
        boundary.optimizer_states = [optimizer.state_dict() for optimizer in trainer.optimizers]
        boundary.lr_schedulers = [copy.deepcopy(one.scheduler.state_dict()) for one in trainer.lr_scheduler_configs]
    elif begun == "batch" and any(needs_closure(optimizer) for optimizer in trainer.optimizers):
        boundary.optimizer_states = [copy.deepcopy(optimizer.state_dict()) for optimizer in trainer.optimizers]
        for name, parameter in trainer.lightning_module.named_parameters():
            boundary.weights[name] = parameter.detach().clone()
    return boundary


def _states(trainer: Trainer, begun: Begun) -> dict[str, Any]:
    """Return copies of the states that the hooks of `begun` may change.

    A callback that saves after an exception has its own as it stands: it notes in there which file it writes.
    """
    plan = trainer.plan
    owners = {id(entry.owner) for hook in _HOOKS[begun] for entry in plan.entries(hook)}
    if not owners:
        return {}
    states = {}
    for entry in plan.entries("state_dict"):
        callback = entry.owner
        if id(callback) in owners and isinstance(callback, Callback) and not callback.saves_on_exception:
            states[callback.state_key] = copy.deepcopy(entry.call())
    return states
