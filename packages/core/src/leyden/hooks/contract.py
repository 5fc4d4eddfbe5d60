"""The hook contract as data: every hook, its arguments, its older generations, who receives it, what it may log.

The checks, the plan, `LambdaCallback`, the documentation and the command line read this table; nothing lists the hooks
a second time. It stands in the order in which a run calls them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["HOOKS", "REMOVED_MODULE_METHODS", "Hook", "LogRule", "OlderSignature", "hooks_of_callbacks"]

CALLER = ("trainer", "pl_module")
"""What a callback's hook gets first, and a module's hook does not get."""


@dataclass(frozen=True, slots=True)
class LogRule:
    """What `self.log` means in a hook: its defaults, and whether ``on_step=True`` is possible (``on_epoch`` always)."""

    step_allowed: bool
    on_step: bool
    on_epoch: bool


@dataclass(frozen=True, slots=True)
class OlderSignature:
    """Arguments with which an earlier generation of the API called a hook that still exists.

    `arguments` are all of them, ``trainer`` and ``pl_module`` included where they were passed. `told_by` are names of
    the last argument that tell this signature from today's where both have the same number of arguments. `handed_to`
    is the group of calls it belongs to when it wants something else than the hook of today gives
    (``on_load_state``: the callback's own state instead of the checkpoint).
    """

    arguments: tuple[str, ...]
    generation: str
    replacement: str
    told_by: tuple[str, ...] = ()
    handed_to: str | None = None
    module: bool = True


@dataclass(frozen=True, slots=True)
class Hook:
    """One row of the contract.

    `arguments` are those of the 2.x generation after ``trainer, pl_module``; the last `optional` of them are passed
    only where they say something (``dataloader_idx`` with several dataloaders); a method may do without the last
    `spare` of them, whatever the names of the others. `generation` and `replacement` are set for hooks that an earlier
    generation had and today's has not. `stands_at` names the hooks of today beside which such a hook is called: before
    those that end in ``_start``, after those that end in ``_end``. `passes_caller` is unset for the few that do not get
    ``trainer, pl_module`` first.

    Example:
        >>> HOOKS["on_train_batch_end"].arguments
        ('outputs', 'batch', 'batch_idx')
        >>> HOOKS["on_epoch_end"].replacement
        'on_train_epoch_end, on_validation_epoch_end or on_test_epoch_end'
    """

    name: str
    summary: str
    arguments: tuple[str, ...] = ()
    optional: int = 0
    spare: int = 0
    callbacks: bool = True
    module: bool = True
    datamodule: bool = False
    log: LogRule | None = None
    older: tuple[OlderSignature, ...] = ()
    generation: str | None = None
    replacement: str | None = None
    stands_at: tuple[str, ...] = ()
    passes_caller: bool = True

    def full_arguments(self, *, module: bool) -> tuple[str, ...]:
        """Return the arguments of the 2.x generation as a callback's hook, or the module's, gets them."""
        return self.arguments if module or not self.passes_caller else (*CALLER, *self.arguments)


_TRAIN_STEP = LogRule(step_allowed=True, on_step=True, on_epoch=False)
_EVAL_STEP = LogRule(step_allowed=True, on_step=False, on_epoch=True)
_EPOCH = LogRule(step_allowed=False, on_step=False, on_epoch=True)


def _older_hook(
    name: str,
    generation: str,
    summary: str,
    replacement: str,
    *stands_at: str,
    module: bool = False,
    log: LogRule | None = None,
) -> Hook:
    return Hook(
        name, summary, module=module, log=log, generation=generation, replacement=replacement, stands_at=stands_at
    )


def _with_loader_index(name: str) -> tuple[OlderSignature, ...]:
    arguments = (*CALLER, *(("outputs",) if name.endswith("_end") else ()), "batch", "batch_idx", "dataloader_idx")
    return (OlderSignature(arguments, "1.0-1.6", f"{name} without dataloader_idx"),)


def _module_only(
    name: str,
    summary: str,
    *arguments: str,
    optional: int = 0,
    spare: int = 0,
    log: LogRule | None = None,
    datamodule: bool = False,
) -> Hook:
    return Hook(name, summary, arguments, optional, spare, callbacks=False, log=log, datamodule=datamodule)


def _evaluation(stage: str, epoch: LogRule | None, step: LogRule | None) -> tuple[Hook, ...]:
    """Hooks of one stage that is not training: validation, test and predict differ in names and log rules alone."""
    results = OlderSignature((*CALLER, "outputs"), "1.2-1.9", f"on_{stage}_epoch_end without outputs")
    step_name = "validation_step" if stage == "validation" else f"{stage}_step"
    at = ("batch", "batch_idx", "dataloader_idx")
    return (
        _module_only(f"on_{stage}_model_eval", f"before the {stage} run; sets the modules' eval mode"),
        Hook(f"on_{stage}_start", f"a {stage} run begins", log=epoch),
        Hook(f"on_{stage}_epoch_start", f"the pass over the {stage} data begins", log=epoch),
        Hook(f"on_{stage}_batch_start", f"before each {step_name}", at, 1, 1, log=step),
        _module_only(step_name, "computes one batch", *at, optional=1, spare=2, log=step),
        Hook(f"on_{stage}_batch_end", f"after each {step_name}", ("outputs", *at), 1, 1, log=step),
        Hook(
            f"on_{stage}_epoch_end",
            f"the pass over the {stage} data ends",
            log=epoch,
            older=(results,) if stage == "predict" else (),
        ),
        Hook(f"on_{stage}_end", f"a {stage} run ends"),
        _module_only(f"on_{stage}_model_train", f"after the {stage} run; gives the modules their modes back"),
    )


def _configuration() -> Iterable[Hook]:
    for when, summary in (("start", "Trainer(...) begins"), ("end", "Trainer(...) is complete")):
        yield Hook(
            f"on_init_{when}", summary, ("trainer",), module=False, passes_caller=False,
            generation="1.9 and before", replacement="setup",
        )  # fmt: skip
    yield _module_only("prepare_data", "downloads and prepares, in one process of a machine", datamodule=True)
    yield _module_only("configure_callbacks", "returns callbacks that come with the module")
    yield _older_hook("on_before_accelerator_backend_setup", "1.7 and before", "before setup", "setup")
    yield Hook("setup", "an entry point begins: fit, validate, test or predict", ("stage",), datamodule=True)
    yield _module_only("configure_model", "creates layers that are large or sharded")
    yield _older_hook("on_configure_sharded_model", "1.3-1.9", "after setup and the weights are restored", "setup")
    yield _module_only("configure_optimizers", "returns optimizers and schedulers")
    yield Hook("on_fit_start", "fit begins")
    yield _older_hook("on_pretrain_routine_start", "1.7 and before", "after on_fit_start", "on_fit_start")
    yield _older_hook("on_pretrain_routine_end", "1.7 and before", "before the sanity check", "on_fit_start")
    yield Hook("on_sanity_check_start", "before the validation batches that precede training", module=False)
    yield Hook("on_sanity_check_end", "after the validation batches that precede training", module=False)
    for stage in ("train", "val", "test", "predict"):
        yield _module_only(f"{stage}_dataloader", "returns the data of a stage", datamodule=True)


def _training() -> Iterable[Hook]:
    yield Hook("on_train_start", "training begins, after the sanity check", log=_EPOCH)
    yield _older_hook(
        "on_epoch_start", "1.7 and before", "before each training, validation and test epoch",
        "on_train_epoch_start, on_validation_epoch_start or on_test_epoch_start",
        "on_train_epoch_start", "on_validation_epoch_start", "on_test_epoch_start", module=True, log=_EPOCH,
    )  # fmt: skip
    yield Hook("on_train_epoch_start", "an epoch begins", log=_EPOCH)
    yield _module_only(
        "on_before_batch_transfer", "changes a batch before it is moved", "batch", "dataloader_idx", datamodule=True
    )
    yield _module_only(
        "transfer_batch_to_device", "moves a batch", "batch", "device", "dataloader_idx", datamodule=True
    )
    yield _module_only(
        "on_after_batch_transfer", "changes a batch on its device", "batch", "dataloader_idx", datamodule=True
    )
    yield _older_hook(
        "on_batch_start", "1.7 and before", "before each training batch", "on_train_batch_start",
        "on_train_batch_start", log=_TRAIN_STEP,
    )  # fmt: skip
    yield Hook(
        "on_train_batch_start", "before each training step; -1 from the module skips the rest of the epoch",
        ("batch", "batch_idx"), log=_TRAIN_STEP, older=_with_loader_index("on_train_batch_start"),
    )  # fmt: skip


def _optimization() -> Iterable[Hook]:
    yield _module_only(
        "optimizer_step", "calls the optimizer with the closure that holds the training step",
        "epoch", "batch_idx", "optimizer", "optimizer_closure", log=_TRAIN_STEP,
    )  # fmt: skip
    yield _module_only("training_step", "computes the loss", "batch", "batch_idx", spare=1, log=_TRAIN_STEP)
    yield Hook("on_before_zero_grad", "before gradients are zeroed", ("optimizer",), log=_TRAIN_STEP)
    yield _module_only("optimizer_zero_grad", "zeroes gradients", "epoch", "batch_idx", "optimizer", log=_TRAIN_STEP)
    yield Hook("on_before_backward", "before loss.backward()", ("loss",), log=_TRAIN_STEP)
    yield _module_only("backward", "calls loss.backward()", "loss", log=_TRAIN_STEP)
    yield Hook("on_after_backward", "after loss.backward(), gradients still scaled", log=_TRAIN_STEP)
    yield Hook(
        "on_before_optimizer_step", "gradients unscaled, not yet clipped", ("optimizer",), log=_TRAIN_STEP,
        older=(
            OlderSignature((*CALLER, "optimizer", "opt_idx"), "1.4-1.9", "on_before_optimizer_step without opt_idx"),
        ),
    )  # fmt: skip
    yield _module_only(
        "configure_gradient_clipping", "clips gradients",
        "optimizer", "gradient_clip_val", "gradient_clip_algorithm", log=_TRAIN_STEP,
    )  # fmt: skip
    yield _module_only("lr_scheduler_step", "steps a scheduler", "scheduler", "metric", log=_TRAIN_STEP)
    yield Hook(
        "on_train_batch_end", "after each training step; outputs hold the detached loss",
        ("outputs", "batch", "batch_idx"), log=_TRAIN_STEP, older=_with_loader_index("on_train_batch_end"),
    )  # fmt: skip
    yield _older_hook(
        "on_batch_end", "1.7 and before", "after each training batch", "on_train_batch_end",
        "on_train_batch_end", log=_TRAIN_STEP,
    )  # fmt: skip


def _ends() -> Iterable[Hook]:
    yield _module_only("on_validation_model_zero_grad", "frees gradients before validation within fit")
    yield from _evaluation("validation", _EPOCH, _EVAL_STEP)
    yield Hook(
        "on_train_epoch_end", "an epoch ends, after its validation", log=_EPOCH,
        older=(OlderSignature((*CALLER, "outputs"), "1.0-1.2", "on_train_epoch_end without outputs"),),
    )  # fmt: skip
    yield _older_hook(
        "on_epoch_end", "1.7 and before", "after each training, validation and test epoch",
        "on_train_epoch_end, on_validation_epoch_end or on_test_epoch_end",
        "on_train_epoch_end", "on_validation_epoch_end", "on_test_epoch_end", module=True, log=_EPOCH,
    )  # fmt: skip
    yield Hook("on_train_end", "training ends")
    yield Hook("on_fit_end", "fit ends")
    yield from _evaluation("test", _EPOCH, _EVAL_STEP)
    yield from _evaluation("predict", None, None)
    yield _older_hook("on_keyboard_interrupt", "1.7 and before", "on KeyboardInterrupt", "on_exception")
    yield Hook("on_exception", "an entry point is cut short", ("exception",), module=False, datamodule=True)
    yield Hook("teardown", "an entry point ends, also after an exception", ("stage",), datamodule=True)


def _state() -> Iterable[Hook]:
    yield Hook(
        "state_dict", "a checkpoint is made; returns what it keeps, an empty dict is not stored",
        module=False, datamodule=True, passes_caller=False,
    )  # fmt: skip
    yield Hook(
        "on_save_checkpoint", "a checkpoint is made; may change it in place", ("checkpoint",), datamodule=True,
        older=(OlderSignature(CALLER, "1.0-1.1", "state_dict", module=False),),
    )  # fmt: skip
    state_names = ("callback_state", "checkpointed_state", "callback_states")
    yield Hook(
        "on_load_checkpoint", "a checkpoint is restored; gets the whole of it", ("checkpoint",), datamodule=True,
        older=(
            OlderSignature(
                (*CALLER, "callback_state"), "1.3-1.7", "load_state_dict", state_names, "on_load_state", module=False
            ),
            OlderSignature(("state",), "1.0-1.2", "load_state_dict", handed_to="on_load_state", module=False),
        ),
    )  # fmt: skip
    yield Hook(
        "load_state_dict", "a checkpoint is restored that holds this callback's state_key",
        ("state_dict",), module=False, datamodule=True, passes_caller=False,
    )  # fmt: skip


HOOKS: dict[str, Hook] = {
    hook.name: hook for part in (_configuration, _training, _optimization, _ends, _state) for hook in part()
}
"""Every hook by its name, in the order of a run."""

REMOVED_MODULE_METHODS: dict[str, str] = {
    f"{stage}_{kind}": f"collect what it needs in {stage}_step and use it in "
    + (f"on_{'train' if stage == 'training' else stage}_epoch_end" if kind == "epoch_end" else f"{stage}_step itself")
    for stage in ("training", "validation", "test")
    for kind in ("epoch_end", "step_end")
} | {
    "configure_sharded_model": "rename it to configure_model",
    "tbptt_split_batch": "split the batch in training_step, with automatic_optimization = False",
}
"""Methods of the 1.x module that no generation calls any more, with what to do instead."""


def hooks_of_callbacks(*, older: bool = False) -> tuple[str, ...]:
    """Return the names of the hooks that callbacks have, those of older generations too where `older` is set."""
    return tuple(name for name, hook in HOOKS.items() if hook.callbacks and (older or hook.generation is None))
