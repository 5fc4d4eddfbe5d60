"""The base of callbacks that freeze parts of a module and set them free later."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable
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
from leyden_finetune.groups import check_newly_trainable, describe_groups, named_parameters, rebuild_groups
from leyden_finetune.schedulers import adopt_new_groups

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["BaseFinetuning"]


class BaseFinetuning(Callback):
    """Freezes parts of a module before the optimizers are made, and calls `finetune_function` as each epoch starts.

    A subclass says what: `freeze_before_training` freezes, `finetune_function` sets free and adds to the optimizer.
    Build the optimizer of the parameters that are trainable in ``configure_optimizers``. Resuming restores who is
    trainable, the parameter groups with their settings, and which BatchNorm layers are frozen. Schedulers drive added
    groups in proportion to the first group.

    A frozen BatchNorm (``train_bn=False``) stays in evaluation mode, whatever ``.train()`` is called on.

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
    _is_frozen = False

    # -- what a subclass says --------------------------------------------------------------------------------------

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze what shall not be trained from the start; called before the optimizers are made."""
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

    def is_ready_to_freeze(self, pl_module: LightningModule) -> bool:
        """Whether what is to be frozen exists; if not yet, freezing waits until the optimizers are made.

        A module may make its layers in ``setup`` or ``configure_model``, which come later.
        """
        return True

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
        self._restored = dict(state_dict)

    def _restore(self, trainer: Trainer, module: LightningModule, state: dict[str, Any]) -> None:
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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._finetune_function()  # a signature that fits no generation is an error before anything is trained
        self._restored = self._at_end = self._epoch_done = self._epoch_to_skip = None
        self._is_frozen = self.is_ready_to_freeze(pl_module)
        if self._is_frozen:
            self.freeze_before_training(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._is_frozen:
            self._freeze_late(trainer, pl_module)
        if self._restored:
            # Before the optimizers' own state is loaded, which needs the groups to be there.
            self._restore(trainer, pl_module, self._restored)
            self._adopt_new_groups(trainer)
        self._restored = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, skipped, self._epoch_to_skip = trainer.current_epoch, self._epoch_to_skip, None
        if epoch == skipped:  # resumed within this epoch, whose work was done before
            return
        before = {name for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
        held = [one for one in pl_module.modules() if is_frozen_norm(one)]
        finetune = self._finetune_function()
        for index, optimizer in enumerate(trainer.optimizers):
            finetune(pl_module, epoch, optimizer, index)
        for one in held:
            if not is_frozen_norm(one):
                one.train(pl_module.training)  # what it noted down last may be a validation's mode
        self._adopt_new_groups(trainer)
        self._epoch_done = epoch
        new = [name for name, one in pl_module.named_parameters() if one.requires_grad and name not in before]
        check_newly_trainable(new, trainer.optimizers, pl_module, type(self).__name__)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the state: another callback may make the module one without these parameters now, such as int8."""
        self._at_end = self.state_dict()

    def _freeze_late(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze after the optimizers were made, and take what is frozen out of them, as if they were made later."""
        self.freeze_before_training(pl_module)
        self._is_frozen = True
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]

    def _adopt_new_groups(self, trainer: Trainer) -> None:
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        for optimizer in trainer.optimizers:
            adopt_new_groups(schedulers, optimizer)

    def _finetune_function(self) -> Callable[[Any, int, Optimizer, int], Any]:
        """Return `finetune_function` as a function of four arguments: until 1.9 the optimizer's index came last."""
        function: Callable[..., Any] = self.finetune_function
        signature = inspect.signature(function)
        for count in (3, 4):
            try:
                signature.bind(*range(count))
            except TypeError:
                continue
            if count == 4:
                return function
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
        had = _parameters_of(optimizer)
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
    ) -> None:
        """Set modules free and add their parameters to the optimizer as a new group.

        The group's learning rate is `lr`, or that of the first group over `initial_denom_lr`. With ``train_bn=False``
        BatchNorm layers are frozen instead. Parameters of BatchNorm layers that were trained from the start stay in
        the group they are in.
        """
        free = []
        for module in flatten(modules):
            if is_norm(module) and not train_bn:
                BaseFinetuning.freeze_module(module)
                continue
            release_norm(module)
            set_trainable(own_parameters(module), True)
            free.append(module)
        had = _parameters_of(optimizer)
        # That a BatchNorm is in the optimizer already is what `freeze(train_bn=True)` meant, and no reason to warn.
        wanted = [
            parameter
            for module in free
            for parameter in own_parameters(module)
            if parameter.requires_grad and not (is_norm(module) and id(parameter) in had)
        ]
        unique = list({id(parameter): parameter for parameter in wanted}.values())
        new = BaseFinetuning.filter_on_optimizer(optimizer, unique)
        if not new:
            return
        first = optimizer.param_groups[0]
        params: list[Any] = list(new)
        if "param_names" in first:  # torch wants names for all groups or for none
            number = len(optimizer.param_groups)
            params = [(f"group{number}.{index}", parameter) for index, parameter in enumerate(new)]
        rate = float(first["lr"]) / initial_denom_lr if lr is None else float(lr)
        optimizer.add_param_group({"params": params, "lr": rate})


def _parameters_of(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
