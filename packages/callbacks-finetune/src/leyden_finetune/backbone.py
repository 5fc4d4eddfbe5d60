"""Training a head on a frozen backbone first, then the backbone, whole or by levels, at learning rates of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from leyden.arguments import check_arguments, is_count, is_positive
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_info
from leyden_finetune.base import BaseFinetuning
from leyden_finetune.freezing import is_norm, own_parameters, release_norm, set_trainable
from leyden_finetune.groups import add_group, check_takes, parameters_of
from leyden_finetune.levels import Level, check_levels, is_strategy, read_strategy, share_out
from leyden_finetune.schedulers import set_learning_rate

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["BackboneFinetuning", "multiplicative"]

_UNFREEZE_AT = 10


def multiplicative(epoch: int) -> float:
    """Double the backbone's learning rate each epoch."""
    return 2.0


class BackboneFinetuning(BaseFinetuning):
    """Freezes ``pl_module.backbone`` and trains it from an epoch on, at a learning rate that grows to the head's.

    The backbone comes into the first optimizer as a group of its own. At each later epoch its learning rate is
    multiplied by ``lambda_func(epoch + 1)``. With a `strategy` it comes level by level, each as a group with a rate
    that grows from that level's epoch on.

    Args:
        unfreeze_backbone_at_epoch: The first epoch that trains the backbone, counted from 0.
        lambda_func: Takes the number of the next epoch, returns the factor for the backbone's learning rate.
        backbone_initial_ratio_lr: The backbone's first learning rate as a fraction of the head's.
        backbone_initial_lr: The backbone's first learning rate itself, instead of a fraction.
        should_align: Never let the backbone's learning rate grow above the head's.
        initial_denom_lr: Divides the head's rate for groups added without a rate, as subclasses may.
        train_bn: Whether the backbone's BatchNorm layers are trained, from the start; if not, never.
        verbose: Log both learning rates each epoch.
        rounding: Digits behind the point in these messages.
        strategy: Epochs with patterns (of `fnmatch`, where ``*`` crosses dots) for names of the backbone's modules and
            parameters, as in ``{3: ["layer4"], 6: ["layer3", "*.bias"], 9: ["*"]}``. An earlier level keeps what a
            later one names again; what none names stays frozen, and a message says so.
        level_ratio_lr: First and highest learning rate of each level as a fraction of those of the level before it.

    Raises:
        MisconfigurationException: an argument is wrong; the module has no ``backbone``; a pattern sets nothing free.

    Attributes:
        levels: what is set free at which epoch; one of all without a `strategy`.
        level_lrs: the learning rates of the levels that are free, as last set.

    Example:
        >>> callback = BackboneFinetuning(unfreeze_backbone_at_epoch=5, backbone_initial_ratio_lr=0.5)
        >>> callback.lambda_func(6)
        2.0
        >>> by_levels = BackboneFinetuning(strategy={3: ["layer4"], 6: ["layer2", "layer3"]})
        >>> [(level.epoch, level.name) for level in by_levels.levels]
        [(3, 'backbone.layer4'), (6, 'backbone.layer2+layer3')]
        >>> BackboneFinetuning(rounding=-1)
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: BackboneFinetuning(rounding=-1): expected a number of digits >= 0.
    """

    def __init__(
        self,
        unfreeze_backbone_at_epoch: int = _UNFREEZE_AT,
        lambda_func: Callable[[int], float] = multiplicative,
        backbone_initial_ratio_lr: float = 0.1,
        backbone_initial_lr: float | None = None,
        should_align: bool = True,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
        verbose: bool = False,
        rounding: int = 12,
        strategy: dict[int, list[str]] | None = None,
        level_ratio_lr: float = 1.0,
    ) -> None:
        super().__init__()
        positive, flag = "a number > 0", "True or False"
        at, ratio, first_lr = unfreeze_backbone_at_epoch, backbone_initial_ratio_lr, backbone_initial_lr
        expected_at = "an int >= 0" if strategy is None else "to be left out, since strategy says when"
        check_arguments(
            type(self).__name__,
            (
                "unfreeze_backbone_at_epoch",
                at,
                is_count(at) and (strategy is None or at == _UNFREEZE_AT),
                expected_at,
            ),
            ("lambda_func", lambda_func, callable(lambda_func), "a function of the epoch that returns a factor"),
            ("backbone_initial_ratio_lr", ratio, is_positive(ratio), positive),
            ("backbone_initial_lr", first_lr, first_lr is None or is_positive(first_lr), f"{positive} or None"),
            ("should_align", should_align, isinstance(should_align, bool), flag),
            ("initial_denom_lr", initial_denom_lr, is_positive(initial_denom_lr), positive),
            ("train_bn", train_bn, isinstance(train_bn, bool), flag),
            ("verbose", verbose, isinstance(verbose, bool), flag),
            ("rounding", rounding, is_count(rounding), "a number of digits >= 0"),
            (
                "strategy",
                strategy,
                strategy is None or is_strategy(strategy),
                'a dict of epochs >= 0 with lists of patterns, such as {3: ["layer4"], 6: ["*"]}, or None',
            ),
            ("level_ratio_lr", level_ratio_lr, is_positive(level_ratio_lr), positive),
        )
        self.unfreeze_backbone_at_epoch = at
        self.lambda_func = lambda_func
        self.backbone_initial_ratio_lr = ratio
        self.backbone_initial_lr = first_lr
        self.should_align = should_align
        self.initial_denom_lr = initial_denom_lr
        self.train_bn = train_bn
        self.verbose = verbose
        self.rounding = rounding
        self.strategy = strategy
        self.level_ratio_lr = level_ratio_lr
        self.levels = [Level(0, at)] if strategy is None else read_strategy(strategy)
        self.level_lrs: list[float] = []

    @property
    def previous_backbone_lr(self) -> float | None:
        """The learning rate, as last set, of what was set free last; None while the backbone is frozen."""
        return self.level_lrs[-1] if self.level_lrs else None

    @previous_backbone_lr.setter
    def previous_backbone_lr(self, value: float | None) -> None:  # as a `finetune_function` of a subclass may set it
        self.level_lrs = [] if value is None else [*self.level_lrs[:-1], value]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "level_lrs": list(self.level_lrs)} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if "previous_backbone_lr" in state_dict:  # a state of Lightning
            self.previous_backbone_lr = state_dict["previous_backbone_lr"]
        else:
            self.level_lrs = list(state_dict["level_lrs"])

    def prepare_module(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any] | None
    ) -> None:
        if trainer.state.fn == "fit":
            self.level_lrs = []
        super().prepare_module(trainer, pl_module, checkpoint)
        if trainer.state.fn == "fit":
            self._tell_what_stays_frozen(trainer, pl_module)

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return what decides, for all processes have to come to the same."""
        return {
            "levels": [(one.epoch, one.patterns) for one in self.levels],
            "backbone_initial_lr": self.backbone_initial_lr,
            "train_bn": self.train_bn,
        }

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        backbone = getattr(pl_module, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise _no_backbone(self, pl_module)
        if self.strategy is not None:
            check_levels(self.levels, backbone, self.train_bn, type(self).__name__)
        self.freeze(backbone, train_bn=self.train_bn)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.optimizers:  # what cannot join is an error now, not in the epoch in which it is due
            had, (shares, _) = parameters_of(*trainer.optimizers), share_out(self.levels, _backbone(pl_module))
            shared = [one for share in shares for one in share.values() if id(one) not in had]
            norms = set() if self.train_bn else _of_norms(_backbone(pl_module))
            check_takes(trainer.optimizers[0], [one for one in shared if id(one) not in norms])
        super().on_fit_start(trainer, pl_module)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch < self.levels[0].epoch:
            return
        head_lr = float(optimizer.param_groups[0]["lr"])
        shares, _ = share_out(self.levels, _backbone(pl_module))
        for level, share in zip(self.levels, shares, strict=True):
            if level.epoch > epoch:
                break
            parameters = [*share.values()]
            if level.number == len(self.level_lrs):  # at its epoch, or later where a run starts later
                rate: float | None = self._set_free(level, parameters, optimizer, pl_module)
            else:
                rate = self._grow(level, parameters, epoch, optimizer, pl_module)
            if rate is None or not self.verbose:
                continue
            what = "the backbone" if self.strategy is None else level.name
            rank_zero_info(
                f"Epoch {epoch}: learning rate {round(head_lr, self.rounding)}, of {what} {round(rate, self.rounding)}"
            )

    def _set_free(
        self, level: Level, parameters: list[Parameter], optimizer: Optimizer, pl_module: LightningModule
    ) -> float:
        """Train what a level holds from now on, in a group of its own; return its learning rate."""
        first, others = optimizer.param_groups[0], [one for one in pl_module.trainer.optimizers if one is not optimizer]
        had, elsewhere = parameters_of(optimizer), parameters_of(*others)
        ids = {id(one) for one in parameters}
        norms = [module for module in _backbone(pl_module).modules() if is_norm(module)]
        of_norms = {id(one) for norm in norms for one in own_parameters(norm) if id(one) in ids}
        if self.train_bn:
            for norm in norms:
                if any(id(one) in of_norms for one in own_parameters(norm)):
                    release_norm(norm)
        else:
            parameters = [one for one in parameters if id(one) not in of_norms]
        set_trainable(parameters, True)
        # That a BatchNorm is in the optimizer already is what `train_bn=True` meant, and no reason to warn.
        wanted = [one for one in parameters if one.requires_grad and not (id(one) in of_norms and id(one) in had)]
        new = self.filter_on_optimizer(optimizer, [one for one in wanted if id(one) not in elsewhere])
        scale = self.level_ratio_lr**level.number
        given = self.backbone_initial_lr
        rate = scale * (float(first["lr"]) * self.backbone_initial_ratio_lr if given is None else float(given))
        if new:
            name = level.name if self.strategy is not None or "name" in first else None
            # A rate of 0, as a warm-up begins, tells no proportion: the fraction does.
            add_group(optimizer, new, rate or None, 1 / (scale * self.backbone_initial_ratio_lr), name)
        elif (group := _group_of(parameters, optimizer)) is not None:  # it is frozen in a group of the user's own
            set_learning_rate(_schedulers(pl_module), optimizer, group, rate)
        self.level_lrs.append(rate)
        return rate

    def _grow(
        self, level: Level, parameters: list[Parameter], epoch: int, optimizer: Optimizer, pl_module: LightningModule
    ) -> float | None:
        """Set the rate that a level has in a later epoch, and return it; None where it has no group of its own here."""
        group = _group_of(parameters, optimizer)
        if group is None or "swa_lr" in optimizer.param_groups[group]:  # SWALR anneals all groups to rates of its own
            return None
        previous = self.level_lrs[level.number] or float(optimizer.param_groups[group]["lr"])
        rate = self.lambda_func(epoch + 1) * previous
        if self.should_align:
            rate = min(rate, float(optimizer.param_groups[0]["lr"]) * self.level_ratio_lr**level.number)
        set_learning_rate(_schedulers(pl_module), optimizer, group, rate)
        self.level_lrs[level.number] = rate
        return rate

    def _tell_what_stays_frozen(self, trainer: Trainer, pl_module: LightningModule) -> None:
        owner, epochs = type(self).__name__, trainer.max_epochs
        _, left = share_out(self.levels, _backbone(pl_module))
        frozen = [name for name, parameter in left.items() if not parameter.requires_grad]
        if frozen:
            shown = f"{', '.join(frozen[:5])}{', ...' if len(frozen) > 5 else ''}"
            rank_zero_info(
                f"{owner}: {len(frozen)} parameters of the backbone are in no level and stay frozen: {shown}"
            )
        late = [] if epochs in (None, -1) else [level for level in self.levels if level.epoch >= epochs]
        for level in late:
            rank_zero_info(
                f"{owner}: {level.name} stays frozen, since epoch {level.epoch} (counted from 0) does not come with "
                f"Trainer(max_epochs={epochs})."
            )


def _backbone(pl_module: LightningModule) -> nn.Module:
    backbone: nn.Module = pl_module.backbone  # type: ignore[assignment]
    return backbone


def _of_norms(backbone: nn.Module) -> set[int]:
    return {id(one) for module in backbone.modules() if is_norm(module) for one in own_parameters(module)}


def _schedulers(pl_module: LightningModule) -> list[Any]:
    return [config.scheduler for config in pl_module.trainer.lr_scheduler_configs]


def _group_of(parameters: list[Parameter], optimizer: Optimizer) -> int | None:
    """Return the number of the last group that holds some of the parameters and nothing else, and is not the head's."""
    own = {id(parameter) for parameter in parameters}
    for index in reversed(range(1, len(optimizer.param_groups))):
        group = optimizer.param_groups[index]["params"]
        if group and all(id(parameter) in own for parameter in group):
            return index
    return None


def _no_backbone(callback: BackboneFinetuning, pl_module: LightningModule) -> MisconfigurationException:
    given = hasattr(pl_module, "backbone")
    seen = f"its backbone is {pl_module.backbone!r}" if given else "it has none"
    return MisconfigurationException(
        f"{type(callback).__name__} finetunes `{type(pl_module).__name__}.backbone`, a torch.nn.Module, but {seen}. "
        "Assign what is to be frozen to self.backbone in the module's __init__, or derive a callback from "
        "BaseFinetuning."
    )
