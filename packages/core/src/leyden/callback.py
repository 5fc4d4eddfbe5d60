"""`Callback`, what every callback is made of; `Checkpoint`, which runs last; `LambdaCallback`, made of functions."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from leyden.errors import MisconfigurationException, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from leyden.module import LightningModule
    from leyden.runtime.strategy import Strategy
    from leyden.trainer import Trainer
    from leyden.types import STEP_OUTPUT

__all__ = ["Callback", "Checkpoint", "LambdaCallback"]


class Callback:
    """Something that happens beside training: override the hooks you need, and leave the others alone.

    Hooks are called in the order of `leyden.hooks.contract.HOOKS`; of each hook the callbacks come first, then
    the module. What a hook returns is ignored. A hook may take fewer arguments than it gets, under their names:
    ``def on_train_batch_end(self, trainer, outputs)``. A hook that nobody overrides costs nothing.

    Example:
        >>> class CountBatches(Callback):
        ...     def __init__(self):
        ...         self.batches = 0
        ...
        ...     def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        ...         self.batches += 1
        ...
        ...     def state_dict(self):
        ...         return {"batches": self.batches}
        ...
        ...     def load_state_dict(self, state_dict):
        ...         self.batches = state_dict["batches"]
        >>> CountBatches().state_key
        'CountBatches'
    """

    name: str | None = None
    """Sets two callbacks of a kind apart, in checkpoints and for `runs_before` / `runs_after`."""

    runs_before: tuple[type | str, ...] = ()
    """Callbacks that this one runs before, by class (with its subclasses), by class name or by `name`."""

    runs_after: tuple[type | str, ...] = ()
    """Callbacks that this one runs after; those that are absent are ignored."""

    position: Literal["first", "normal", "monitor", "checkpoint"] = "normal"
    """Where it stands among the others. ``"monitor"`` and ``"checkpoint"`` run ``on_*_epoch_end`` after the module."""

    role: ClassVar[str | None] = None
    """The Trainer's switch or accessor that it answers to, such as ``"progress_bar"`` or ``"early_stopping"``.

    One with ``"accumulation"`` sets how many batches a step has, by ``trainer.fit_loop.accumulate``, and has a method
    `steps_in` that says how many steps a number of epochs of so many batches has.
    """

    saves_on_exception: bool = False
    """Whether it makes a checkpoint in `on_exception`: the run is then remembered between batches, to be exact."""

    changes_weights: bool = False
    """Whether a training or validation hook changes weights. Beside a callback that `saves_on_exception` they are then
    copied before each call, so that a run which repeats the hook after an exception does not change them twice."""

    changes_saved_weights: bool = False
    """Whether its `on_save_checkpoint` says which weights a checkpoint holds: called for one of weights alone too."""

    wants_predictions: bool = False
    """Whether it wants all predictions of a pass in `on_predict_epoch_end`, as ``trainer.predict_loop.predictions``."""

    wants_batch_indices: bool = False
    """Whether it wants to know which items of the dataset a predict batch has: ``current_batch_indices`` of
    ``trainer.predict_loop``, and ``epoch_batch_indices`` where a callback wants the predictions too."""

    state_version: int = 1
    """The version of what `state_dict` returns; raise it when that changes, and read older ones in `migrate_state`."""

    _trainer_ref: Callable[[], Trainer | None] | None = None

    @property
    def state_key(self) -> str:
        """The name of this callback's state in a checkpoint: its class, and its `name` where it has one."""
        return self._generate_state_key()

    def _generate_state_key(self, **kwargs: Any) -> str:
        """Return a key that holds the given values, for callbacks of which there may be several.

        Example:
            >>> Callback()._generate_state_key(what="batches")
            "Callback{'what': 'batches'}"
        """
        if isinstance(self.name, str):
            kwargs = {"name": self.name, **kwargs}
        return f"{type(self).__qualname__}{kwargs if kwargs else ''}"

    def applies(self, trainer: Trainer) -> bool:
        """Tell whether a callback that the environment attaches belongs in this trainer; a user's own is not asked."""
        return True

    def conflict_with(self, other: Callback) -> str | None:
        """Say why this callback and `other` cannot work in one trainer, and what to do; None where they can.

        Asked about every other callback when callbacks are attached: an answer is an error at ``Trainer(...)``, and
        where the environment attached one of the two, a reason to leave that one out.
        """
        return None

    def conflict_with_strategy(self, strategy: Strategy) -> str | None:
        """Say why this callback cannot work in runs of `strategy`, and what to do; None where it can.

        Asked when callbacks are attached, like `conflict_with`. ``strategy.shards_weights`` tells of one under which a
        process has a part of each weight only.
        """
        return None

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """Return the settings that all processes of a run must have alike, by name; None where one may have it alone.

        For what waits for other processes, decides for all or changes the training: what `trainer` runs then needs this
        callback in every process, and before `setup` all compare these. What differs is an error in all of them, and a
        reason to leave out what the environment attached. Functions, modules and the like are compared by type only.
        """
        return None

    def prepare_module(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any] | None
    ) -> None:
        """Change what the module is made of: layers to replace, parameters and buffers to add.

        Called in every entry point when `setup` and ``configure_model`` have made the module whole, before the weights
        of `checkpoint` are loaded (None where nothing is), before it goes to its device and before
        ``configure_optimizers``. An evaluation changes no module but to make room for what the checkpoint holds.
        """

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a value as `LightningModule.log` does, under the rules of the hook that is running.

        Without a trainer, as in a test that calls a hook by hand, it warns and logs nothing.
        """
        trainer = None if self._trainer_ref is None else self._trainer_ref()
        if trainer is None:
            warnings.warn(
                f"{type(self).__qualname__}.log({name!r}) logs nothing: no trainer has this callback. "
                f"Pass it as Trainer(callbacks=[...]) and call log within a hook.",
                stacklevel=2,
            )
            return
        trainer.journal.log(
            name, value, prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
            add_dataloader_idx, batch_size, metric_attribute, rank_zero_only,
        )  # fmt: skip

    def log_dict(
        self,
        dictionary: Mapping[str, Any],
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log several values under one set of options."""
        for name, value in dictionary.items():
            self.log(
                name,
                value,
                prog_bar,
                logger,
                on_step,
                on_epoch,
                reduce_fx,
                enable_graph,
                sync_dist,
                sync_dist_group,
                add_dataloader_idx,
                batch_size,
                rank_zero_only=rank_zero_only,
            )

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Copies and pickles start without a trainer, also those of classes with a __getstate__ of their own.
        reduced = super().__reduce_ex__(protocol)
        if isinstance(reduced, str) or len(reduced) < 3:
            return reduced
        make, arguments, state, *rest = reduced
        if isinstance(state, tuple) and len(state) == 2:
            state = (_without_trainer(state[0]), state[1])
        return (make, arguments, _without_trainer(state), *rest)

    # -- the hooks, in the order of a run -----------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """An entry point begins; `stage` is ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """An entry point ends, also after an exception."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit begins; optimizers are there."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fit ends."""

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation batches that precede training begin."""

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation batches that precede training are done."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training begins, after the sanity check."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training ends."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch ends, after its validation; monitors and checkpoints see what the module logs here."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A training step is about to be made; the batch is on its device."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        """A training step was made.

        `outputs` is the step's dict with the detached ``loss``, divided by the number of accumulated batches, and
        ``{}`` where the step returned None.
        """

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are about to be zeroed."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """``loss.backward()`` is about to be called."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gradients are there, still scaled under 16-bit precision."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The optimizer is about to step; gradients are unscaled and not yet clipped."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation run begins, also that of the sanity check."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation run ends."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the validation data begins."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the validation data ends."""

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A validation step is about to be made."""

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A validation step was made; `outputs` is what it returned."""

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test run begins."""

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test run ends."""

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the test data begins."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the test data ends."""

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A test step is about to be made."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A test step was made; `outputs` is what it returned."""

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A predict run begins."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A predict run ends."""

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the predict data begins."""

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The pass over the predict data ends."""

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A predict step is about to be made."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A predict step was made; `outputs` are its predictions."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """An entry point is cut short by `exception`, which is raised again afterwards."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this callback: plain data and tensors; an empty dict is not stored."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; not called where the checkpoint holds nothing under `state_key`."""

    def migrate_state(self, state_dict: dict[str, Any], from_version: int) -> dict[str, Any]:
        """Turn a state of an older `state_version` into one of this; `load_state_dict` gets what it returns."""
        return state_dict

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is made and may be changed in place."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is restored; this is the whole of it."""


class Checkpoint(Callback):
    """The base of callbacks that save the run: they come last, so that what they save holds what the others did.

    Example:
        >>> Checkpoint().position
        'checkpoint'
    """

    position = "checkpoint"


class LambdaCallback(Callback):
    """A callback made of functions, one keyword argument per hook; each takes what the method would, without ``self``.

    Raises `MisconfigurationException` for a keyword that is no hook, with the nearest that is.

    Example:
        >>> callback = LambdaCallback(on_fit_start=lambda trainer, pl_module: print("here we go"))
        >>> callback.on_fit_start(None, None)
        here we go
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        from leyden.hooks.contract import hooks_of_callbacks

        allowed = hooks_of_callbacks(older=True)
        for name, function in hooks.items():
            if name not in allowed:
                raise MisconfigurationException(
                    f"LambdaCallback got {name!r}, which is no hook of callbacks.{did_you_mean(name, allowed)}"
                )
            if function is None:
                continue
            if not callable(function):
                raise MisconfigurationException(
                    f"LambdaCallback got {name}={function!r}, which cannot be called. Give a function."
                )
            setattr(self, name, function)


def attach(callback: Callback, trainer: Any) -> None:
    """Give a callback the trainer that its `log` reaches; weakly, since a kept callback must not keep a run."""
    try:
        reference: Callable[[], Any] = weakref.ref(trainer)
    except TypeError:  # an object without weak references stands in for a trainer

        def reference() -> Any:
            return trainer

    object.__setattr__(callback, "_trainer_ref", reference)  # frozen dataclasses are callbacks too


def _without_trainer(state: Any) -> Any:
    if isinstance(state, dict) and "_trainer_ref" in state:
        return {key: value for key, value in state.items() if key != "_trainer_ref"}
    return state
