"""The run as it was before something that a run which goes on from here does again, since an exception cut it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.nn.parameter import is_lazy

from leyden.callback import Callback
from leyden.loops.schedule import reached

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["Begun", "Boundary", "boundary_of", "changers", "take_up_epoch"]

Begun = Literal[
    "epoch", "batch", "batch_end", "batch_done", "epoch_end", "epoch_done",
    "validation", "validation_batch", "validation_batch_end", "validation_done",
    "validation_epoch_end", "validation_end",
]  # fmt: skip
"""What begins at a boundary: an epoch or a validation (with the hooks of its start), a batch, the hooks of an end.

That of a batch begins with the schedulers that its step brings. A batch or an epoch is done when only its row of
metrics and schedulers on a plateau are left, a validation or a batch of it when only its row is. The former
"validation_batch" is a "validation_batch_end" while its last hooks run.
"""

_HOOKS: dict[Begun, tuple[str, ...]] = {
    "epoch": ("on_train_epoch_start", "on_epoch_start"),
    "batch": (
        "on_batch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
        "on_before_optimizer_step",
    ),
    "batch_end": ("on_train_batch_end", "on_batch_end"),
    "batch_done": (),
    "epoch_end": ("on_train_epoch_end", "on_epoch_end"),
    "epoch_done": (),
    "validation": ("on_validation_start", "on_validation_epoch_start", "on_epoch_start"),
    "validation_batch": ("on_validation_batch_start", "on_validation_batch_end"),
    "validation_batch_end": (),
    "validation_done": (),
    "validation_epoch_end": ("on_validation_epoch_end", "on_epoch_end"),
    "validation_end": ("on_validation_end",),
}  # fmt: skip
"""The hooks that are called again: those who have one of them had their states changed by it."""


@dataclass(slots=True)
class Boundary:
    """What a run was before `begun`.

    Trained weights are in it where a hook that is called again says it `changes_weights`, and before the first step of
    an optimizer that may leave a batch half done: see `Marks`.

    Attributes:
        begun: what began then.
        progress: what the fit's `state_dict` was.
        run: its random numbers, running metrics and gradients.
        weights: the module's buffers, by name, and those weights.
        loggers: the `mark` of each logger.
        callbacks: the states of those callbacks that the hooks called again may change, by key.
        optimizer_states: where hooks may add parameter groups, as finetuning does, and with copied weights; else None.
        lr_schedulers: where these may be stepped.
        groups: what else the parameter groups hold, such as learning rates, before a batch or the hooks of its end.
    """

    begun: Begun | None
    progress: dict[str, Any]
    run: Mapping[str, Any]
    weights: dict[str, Any] = field(default_factory=dict)
    loggers: list[dict[str, Any]] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)
    optimizer_states: list[Any] | None = None
    lr_schedulers: list[Any] | None = None
    groups: list[list[dict[str, Any]]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """This as plain data, without copies."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def put_back(self, checkpoint: dict[str, Any]) -> None:
        """Let `checkpoint`, in which callbacks have their states already, hold the run as it was here."""
        for name in ("optimizer_states", "lr_schedulers"):
            if getattr(self, name) is not None:
                checkpoint[name] = getattr(self, name)
        if self.groups is not None:
            checkpoint["optimizer_states"] = [
                {
                    **one,
                    "param_groups": [{**now, **then} for now, then in zip(one["param_groups"], groups, strict=False)],
                }
                for one, groups in zip(checkpoint["optimizer_states"], self.groups, strict=True)
            ]
        for index, mark in enumerate(self.loggers):
            checkpoint["loggers"][index] = {**checkpoint["loggers"][index], **mark}
        for key, state in self.callbacks.items():
            if state:
                checkpoint["callbacks"][key] = state
            else:
                checkpoint["callbacks"].pop(key, None)

    def copy_before_step(self, trainer: Trainer) -> None:
        """Keep what an optimizer's step is about to change: its state, and weights if they are not kept yet."""
        self.optimizer_states = [_copied(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self.weights = {**_copied_weights(trainer), **self.weights}


def take_up_epoch(trainer: Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return `checkpoint` as of before its last epoch's end, where a limit had cut that short and is there no more.

    With a larger `max_steps`, say, the run goes on within the epoch, as if the limit had never been.
    """
    # What is no progress of a fit is told of where it is restored, as all that does not fit.
    settings, short = trainer.settings, checkpoint["loops"].get("fit_loop", {}).get("cut_short")
    if short is None or reached(int(checkpoint["global_step"]), settings.max_steps):
        return checkpoint
    boundary = Boundary(**short)
    trained = "current_model_state" if "current_model_state" in checkpoint else "state_dict"  # beside averaged weights
    earlier = {
        **checkpoint,
        **boundary.run,
        "epoch": boundary.progress["epoch"],
        "loops": {**checkpoint["loops"], "fit_loop": boundary.progress},
        "callbacks": dict(checkpoint["callbacks"]),
        "loggers": list(checkpoint["loggers"]),
        trained: {**checkpoint[trained], **boundary.weights},
    }
    boundary.put_back(earlier)
    return earlier


def boundary_of(trainer: Trainer, begun: Begun) -> Boundary:
    """Return the run as it is now, before `begun`. Kept short, since it is done before every batch."""
    loop, module = trainer.fit_loop, trainer.lightning_module
    run = loop.live_run_state()
    if begun != "batch_end":  # after which no gradient is added to them
        run["gradients"] = {name: gradient.clone() for name, gradient in run["gradients"].items()}
    boundary = Boundary(
        begun,
        loop.live_state_dict(),
        run,
        _copies(module.named_buffers(remove_duplicate=False)),
        [logger.mark() for logger in trainer.loggers],
        _states(trainer, begun),
    )
    in_validation = begun in ("validation_batch", "validation_done")
    if in_validation or begun in ("batch", "batch_end"):
        boundary.groups = [[_copied_group(group) for group in one.param_groups] for one in trainer.optimizers]
    else:  # tensors in them change in an optimizer's step alone
        boundary.optimizer_states = [optimizer.state_dict() for optimizer in trainer.optimizers]
    if not in_validation and not (begun == "batch" and module.automatic_optimization):
        boundary.lr_schedulers = [copy.deepcopy(one.scheduler.state_dict()) for one in trainer.lr_scheduler_configs]
    if changers(trainer, begun):
        boundary.weights.update(_copied_weights(trainer))
    if begun == "batch" and (module.changes_weights or not module.automatic_optimization):
        # A step that the gradient scaler leaves out changes its scale, and is none of the optimizer's.
        run["precision"] = copy.deepcopy(trainer.precision_plugin.state_dict())
    return boundary


def changers(trainer: Trainer, begun: Begun) -> list[object]:
    """Return who says that it changes weights in what is done again after `begun`."""
    module = trainer.lightning_module
    owners = [entry.owner for hook in _HOOKS[begun] for entry in trainer.plan.entries(hook)]
    owners += [module] if begun == "batch" else []  # whose steps are no hooks
    return [owner for owner in owners if getattr(owner, "changes_weights", False)]


def _copied(value: Any) -> Any:
    """Return a copy of an optimizer's state; ``copy.deepcopy`` takes nine times as long for many small tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    kind = type(value)
    if kind is dict:
        return {name: _copied(one) for name, one in value.items()}
    if kind is list or kind is tuple:
        return kind([_copied(one) for one in value])
    return value if value is None or kind in (bool, int, float, str) else copy.deepcopy(value)


def _copied_weights(trainer: Trainer) -> dict[str, Any]:
    return _copies(trainer.lightning_module.named_parameters(remove_duplicate=False))


def _copies(named: Iterable[tuple[str, Tensor]]) -> dict[str, Any]:
    """Return copies by name; what a lazy layer has yet to shape, in the run's first batch, has no values to copy."""
    return {name: tensor.detach().clone() for name, tensor in named if not is_lazy(tensor)}


def _copied_group(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group without its parameters; schedulers write into a learning rate that is a tensor."""
    return {
        name: value.clone() if isinstance(value, Tensor) else value for name, value in group.items() if name != "params"
    }


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
