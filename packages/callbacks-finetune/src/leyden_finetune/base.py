"""The base of callbacks that freeze parts of a module and set them free later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn
from leyden_finetune.freezing import (
    Modules,
    flatten,
    freeze_norm,
    is_frozen_norm,
    is_norm,
    own_parameters,
    release_norm,
    set_trainable,
)
from leyden_finetune.groups import (
    add_group,
    check_groups,
    check_sizes,
    count_groups,
    describe_groups,
    name_new_parameters,
    named_parameters,
    parameters_of,
    rebuild_groups,
    warn_of_untrained,
)
from leyden_finetune.lightning_state import completed, from_lightning
from leyden_finetune.schedulers import adopt_new_groups

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["BaseFinetuning"]

_INDEX = (["opt_idx"], ["optimizer_idx"])  # what 1.x calls it, also where it has a default


class BaseFinetuning(Callback):
    """Freezes parts of a module before the optimizers are made, and calls `finetune_function` as each epoch starts.

    A subclass says what: `freeze_before_training` freezes, `finetune_function` sets free and adds to the optimizer.
    Build the optimizer of the parameters that are trainable in ``configure_optimizers``. Resuming restores who is
    trainable, the parameter groups with their settings, and which BatchNorm layers are frozen. Schedulers drive added
    groups in proportion to the first group.

    A frozen BatchNorm (``train_bn=False``) stays in evaluation mode, whatever ``.train()`` is called on, until the fit
    ends. Then the module is left as any other: what was frozen last has no ``requires_grad``, nothing else is changed.

    Raises:
        MisconfigurationException: `finetune_function` set a parameter free that no optimizer has, or put one into
            several parameter groups; or it takes other arguments than ``(pl_module, epoch, optimizer)``, with the
            optimizer's index as a fourth in older code.

    Example:
        >>> class UnfreezeFeatures(BaseFinetuning):
        ...     def freeze_before_training(self, pl_module):
        ...         self.freeze(pl_module.features)
        ...
        ...     def finetune_function(self, pl_module, epoch, optimizer):
        ...         if epoch == 5:
        ...             self.unfreeze_and_add_param_group(pl_module.features, optimizer)
        >>> layer = nn.Linear(2, 2)
        >>> UnfreezeFeatures.freeze(layer)
        >>> layer.weight.requires_grad
        False
    """

    # Defaults of the class, so that a subclass which forgets `super().__init__()` works.
    _restored: dict[str, Any] | None = None
    _at_end: dict[str, Any] | None = None
    _epoch_done: int | None = None
    _epoch_to_skip: int | None = None
    _frozen_norms: Sequence[str] = ()
    _of_another_run: Sequence[Any] | None = None

    # -- what a subclass says --------------------------------------------------------------------------------------

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze what shall not be trained from the start.

        Called when ``setup`` and ``configure_model`` have made the module whole, before ``configure_optimizers``.
        """
        raise MisconfigurationException(
            f"{type(self).__name__} does not define freeze_before_training(self, pl_module). Define it; in it, call "
            "self.freeze(pl_module.backbone) for what is to be frozen."
        )

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Set free what is due in `epoch`; called at the start of each epoch, once for every optimizer."""
        raise MisconfigurationException(
            f"{type(self).__name__} does not define finetune_function(self, pl_module, epoch, optimizer). Define it; "
            "in it, "
            "call self.unfreeze_and_add_param_group(modules, optimizer) at the epoch you want."
        )

    # -- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        trainer: Trainer | None = None if self._trainer_ref is None else self._trainer_ref()
        if trainer is None or not trainer.optimizers or self._restored is not None:
            return dict(self._restored or {})
        if self._at_end is not None:
            return dict(self._at_end)
        module = trainer.lightning_module
        return {
            "groups": [describe_groups(optimizer, module) for optimizer in trainer.optimizers],
            "trainable": [name for name, one in named_parameters(module).items() if one.requires_grad],
            "frozen_norms": [name for name, one in module.named_modules() if is_frozen_norm(one)],
            "epoch_done": self._epoch_done,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The optimizers are not made yet: `on_fit_start` goes on.
        self._restored = from_lightning(state_dict)

    def _restore(self, trainer: Trainer, module: LightningModule, state: dict[str, Any]) -> None:
        state = completed(state, trainer.optimizers, module, trainer.current_epoch)
        trainable, frozen_norms = set(state["trainable"]), set(state["frozen_norms"])
        for name, parameter in named_parameters(module).items():
            set_trainable([parameter], name in trainable)
        for name, one in module.named_modules():
            if is_norm(one):
                (freeze_norm if name in frozen_norms else release_norm)(one)
        if len(state["groups"]) != len(trainer.optimizers):
            raise MisconfigurationException(
                f"The checkpoint holds {type(self).__name__}'s parameter groups of {len(state['groups'])} "
                "optimizers, but "
                f"configure_optimizers made {len(trainer.optimizers)}. Resume with as many optimizers as were "
                "trained with."
            )
        for optimizer, described in zip(trainer.optimizers, state["groups"], strict=True):
            rebuild_groups(optimizer, described, module)
        self._epoch_done = self._epoch_to_skip = state["epoch_done"]

    # -- hooks -----------------------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return nothing to compare: what is set free has to be the same, whatever says so in a class of your own."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._finetune_function()  # a signature that fits no generation is an error before anything is trained

    def prepare_module(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any] | None
    ) -> None:
        if trainer.state.fn != "fit":
            return
        self._restored = self._at_end = self._epoch_done = self._epoch_to_skip = None
        self.freeze_before_training(pl_module)
        self._frozen_norms = [name for name, one in pl_module.named_modules() if is_frozen_norm(one)]
        given = {} if checkpoint is None else checkpoint
        states = given.get("callbacks") or {}
        knows_it = not isinstance(states, Mapping) or self.state_key in states
        self._of_another_run = None if knows_it else given.get("optimizer_states")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, one in pl_module.named_modules():
            if name in self._frozen_norms and is_norm(one):
                freeze_norm(one)  # one that was replaced since, as by SyncBatchNorm, is not held yet
        if self._restored:
            # Before the optimizers' own state is loaded, which needs the groups to be there.
            self._restore(trainer, pl_module, self._restored)
            self._adopt_new_groups(trainer)
        elif self._of_another_run:
            check_sizes(trainer.optimizers, self._of_another_run, type(self).__name__, pl_module)
        self._restored = self._of_another_run = None
        if trainer.optimizers:
            warn_of_untrained(count_groups(pl_module, trainer.optimizers), type(self).__name__, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, skipped, self._epoch_to_skip = trainer.current_epoch, self._epoch_to_skip, None
        if epoch == skipped:  # resumed within this epoch, whose work was done before
            return
        before = count_groups(pl_module, trainer.optimizers)
        held = [one for one in pl_module.modules() if is_frozen_norm(one)]
        finetune = self._finetune_function()
        for index, optimizer in enumerate(trainer.optimizers):
            finetune(pl_module, epoch, optimizer, index)
            name_new_parameters(optimizer, pl_module)
        for one in held:
            if not is_frozen_norm(one):
                one.train(pl_module.training)  # what it noted down last may be a validation's mode
        self._adopt_new_groups(trainer)
        self._epoch_done = epoch
        check_groups(before, count_groups(pl_module, trainer.optimizers), type(self).__name__)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state: another callback may make the module one without these parameters now, such as int8."""
        self._at_end = self.state_dict()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave a plain module: it can be pickled where this package is not, and ``.train()`` is ``.train()``."""
        if stage != "fit":
            return
        if self._at_end is None:  # after an exception
            self._at_end = self.state_dict()
        for around in pl_module.modules():
            for one in around.children():
                if is_frozen_norm(one):
                    release_norm(one)
                    one.train(around.training)  # what it noted down last may be a validation's mode

    def _adopt_new_groups(self, trainer: Trainer) -> None:
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        for optimizer in trainer.optimizers:
            adopt_new_groups(schedulers, optimizer)

    def _finetune_function(self) -> Callable[[Any, int, Optimizer, int], Any]:
        """Return `finetune_function` as a function of four arguments: until 1.9 the optimizer's index came last."""
        function: Callable[..., Any] = self.finetune_function
        signature = inspect.signature(function)
        names = [name for name, one in signature.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
        if _takes(signature, 4) and (not _takes(signature, 3) or names[3:4] in _INDEX):
            return function
        if _takes(signature, 3):
            return lambda module, epoch, optimizer, index: function(module, epoch, optimizer)
        raise MisconfigurationException(
            f"{type(self).__name__}.finetune_function{signature} cannot be called with (pl_module, epoch, optimizer). "
            "Give it these arguments."
        )

    # -- tools -----------------------------------------------------------------------------------------------------

    @staticmethod
    def flatten_modules(modules: Modules) -> list[nn.Module]:
        """Return the modules that hold parameters of their own or have no children, each once."""
        return flatten(modules)

    @staticmethod
    def filter_params(
        modules: Modules, train_bn: bool = True, requires_grad: bool = True
    ) -> Generator[Parameter, None, None]:
        """Yield parameters that have this `requires_grad`; those of BatchNorm layers only with `train_bn`."""
        for module in flatten(modules):
            if is_norm(module) and not train_bn:
                continue
            yield from (parameter for parameter in own_parameters(module) if parameter.requires_grad == requires_grad)

    @staticmethod
    def make_trainable(modules: Modules) -> None:
        """Set modules free, BatchNorm layers too."""
        for module in flatten(modules):
            release_norm(module)
            set_trainable(own_parameters(module), True)

    @staticmethod
    def freeze_module(module: nn.Module) -> None:
        """Freeze one module without its children; a BatchNorm also stops collecting statistics."""
        if is_norm(module):
            freeze_norm(module)
        set_trainable(own_parameters(module), False)

    @staticmethod
    def freeze(modules: Modules, train_bn: bool = True) -> None:
        """Freeze modules; with `train_bn` their BatchNorm layers go on being trained."""
        for module in flatten(modules):
            if is_norm(module) and train_bn:
                BaseFinetuning.make_trainable(module)
            else:
                BaseFinetuning.freeze_module(module)

    @staticmethod
    def filter_on_optimizer(optimizer: Optimizer, params: Iterable[Parameter]) -> list[Parameter]:
        """Return those of `params` that the optimizer does not have yet; a warning tells of the others."""
        had = parameters_of(optimizer)
        given = list(params)
        new = [parameter for parameter in given if id(parameter) not in had]
        if len(new) < len(given):
            rank_zero_warn(
                f"{len(given) - len(new)} of {len(given)} parameters to be added to {type(optimizer).__name__} are "
                "in it already; "
                "they are not added again. If they were frozen before training, build the optimizer of trainable "
                "parameters "
                "only: Adam([p for p in self.parameters() if p.requires_grad])."
            )
        return new

    @staticmethod
    def unfreeze_and_add_param_group(
        modules: Modules,
        optimizer: Optimizer,
        lr: float | None = None,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
        name: str | None = None,
    ) -> None:
        """Set modules free and add their parameters to the optimizer as a new group.

        The group's learning rate is `lr`, or that of the first group over `initial_denom_lr`. With ``train_bn=False``
        BatchNorm layers are frozen instead. Parameters of BatchNorm layers that were trained from the start stay in
        the group they are in. `LearningRateMonitor` shows the group by its `name`.
        """
        free = []
        for module in flatten(modules):
            if is_norm(module) and not train_bn:
                BaseFinetuning.freeze_module(module)
                continue
            release_norm(module)
            set_trainable(own_parameters(module), True)
            free.append(module)
        had = parameters_of(optimizer)
        # That a BatchNorm is in the optimizer already is what `freeze(train_bn=True)` meant, and no reason to warn.
        wanted = [
            parameter
            for module in free
            for parameter in own_parameters(module)
            if parameter.requires_grad and not (is_norm(module) and id(parameter) in had)
        ]
        unique = list({id(parameter): parameter for parameter in wanted}.values())
        add_group(optimizer, BaseFinetuning.filter_on_optimizer(optimizer, unique), lr, initial_denom_lr, name)


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
