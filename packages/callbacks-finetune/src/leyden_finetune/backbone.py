"""Training a head on a frozen backbone first, then the backbone at a learning rate of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from leyden.arguments import check_arguments, is_count, is_positive
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_info
from leyden_finetune.base import BaseFinetuning
from leyden_finetune.schedulers import set_learning_rate

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["BackboneFinetuning", "multiplicative"]


def multiplicative(epoch: int) -> float:
    """Double the backbone's learning rate each epoch."""
    return 2.0


class BackboneFinetuning(BaseFinetuning):
    """Freezes ``pl_module.backbone`` and trains it from an epoch on, at a learning rate that grows to the head's.

    The backbone comes into the first optimizer as a group of its own. At each later epoch its learning rate is
    multiplied by ``lambda_func(epoch + 1)``.

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

    Example:
        >>> callback = BackboneFinetuning(unfreeze_backbone_at_epoch=5, backbone_initial_ratio_lr=0.5)
        >>> callback.lambda_func(6)
        2.0
        >>> BackboneFinetuning(rounding=-1)
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: BackboneFinetuning(rounding=-1): expected a number of digits >= 0.
    """

    def __init__(
        self,
        unfreeze_backbone_at_epoch: int = 10,
        lambda_func: Callable[[int], float] = multiplicative,
        backbone_initial_ratio_lr: float = 0.1,
        backbone_initial_lr: float | None = None,
        should_align: bool = True,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
        verbose: bool = False,
        rounding: int = 12,
    ) -> None:
        super().__init__()
        positive, flag = "a number > 0", "True or False"
        check_arguments(
            type(self).__name__,
            (
                "unfreeze_backbone_at_epoch",
                unfreeze_backbone_at_epoch,
                is_count(unfreeze_backbone_at_epoch),
                "an int >= 0",
            ),
            ("lambda_func", lambda_func, callable(lambda_func), "a function of the epoch that returns a factor"),
            ("backbone_initial_ratio_lr", backbone_initial_ratio_lr, is_positive(backbone_initial_ratio_lr), positive),
            (
                "backbone_initial_lr",
                backbone_initial_lr,
                backbone_initial_lr is None or is_positive(backbone_initial_lr),
                f"{positive} or None",
            ),
            ("should_align", should_align, isinstance(should_align, bool), flag),
            ("initial_denom_lr", initial_denom_lr, is_positive(initial_denom_lr), positive),
            ("train_bn", train_bn, isinstance(train_bn, bool), flag),
            ("verbose", verbose, isinstance(verbose, bool), flag),
            ("rounding", rounding, is_count(rounding), "a number of digits >= 0"),
        )
        self.unfreeze_backbone_at_epoch = unfreeze_backbone_at_epoch
        self.lambda_func = lambda_func
        self.backbone_initial_ratio_lr = backbone_initial_ratio_lr
        self.backbone_initial_lr = backbone_initial_lr
        self.should_align = should_align
        self.initial_denom_lr = initial_denom_lr
        self.train_bn = train_bn
        self.verbose = verbose
        self.rounding = rounding
        self.previous_backbone_lr: float | None = None
        """The backbone's learning rate as last set; None while it is frozen."""

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "previous_backbone_lr": self.previous_backbone_lr} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.previous_backbone_lr = state_dict["previous_backbone_lr"]

    def prepare_module(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any] | None
    ) -> None:
        if trainer.state.fn == "fit":
            self.previous_backbone_lr = None
        super().prepare_module(trainer, pl_module, checkpoint)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        if not isinstance(getattr(pl_module, "backbone", None), nn.Module):
            raise _no_backbone(self, pl_module)
        self.freeze(_backbone(pl_module), train_bn=self.train_bn)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch < self.unfreeze_backbone_at_epoch:
            return
        head_lr = float(optimizer.param_groups[0]["lr"])
        if self.previous_backbone_lr is None:  # at the epoch, or later where a run starts later
            fraction = head_lr * self.backbone_initial_ratio_lr
            backbone_lr = fraction if self.backbone_initial_lr is None else float(self.backbone_initial_lr)
            self.unfreeze_and_add_param_group(
                _backbone(pl_module),
                optimizer,
                lr=backbone_lr,
                initial_denom_lr=self.initial_denom_lr,
                train_bn=self.train_bn,
            )
        else:
            group = _group_of_backbone(pl_module, optimizer)
            if group is None:  # another optimizer has it
                return
            backbone_lr = self.lambda_func(epoch + 1) * self.previous_backbone_lr
            if self.should_align:
                backbone_lr = min(backbone_lr, head_lr)
            schedulers = [config.scheduler for config in pl_module.trainer.lr_scheduler_configs]
            set_learning_rate(schedulers, optimizer, group, backbone_lr)
        self.previous_backbone_lr = backbone_lr
        if self.verbose:
            rank_zero_info(
                f"Epoch {epoch}: learning rate {round(head_lr, self.rounding)}, "
                f"of the backbone {round(backbone_lr, self.rounding)}"
            )


def _backbone(pl_module: LightningModule) -> nn.Module:
    backbone: nn.Module = pl_module.backbone  # type: ignore[assignment]
    return backbone


def _group_of_backbone(pl_module: LightningModule, optimizer: Optimizer) -> int | None:
    """Return the number of the last group that holds parameters of the backbone, and is not the head's."""
    own = {id(parameter) for parameter in _backbone(pl_module).parameters()}
    for index in reversed(range(1, len(optimizer.param_groups))):
        if any(id(parameter) in own for parameter in optimizer.param_groups[index]["params"]):
            return index
    return None


def _no_backbone(callback: BackboneFinetuning, pl_module: LightningModule) -> MisconfigurationException:
    given = hasattr(pl_module, "backbone")
    seen = f"its backbone is {pl_module.backbone!r}" if given else "it has none"
    return MisconfigurationException(
        f"{type(callback).__name__} finetunes `{type(pl_module).__name__}.backbone`, a torch.nn.Module, but {seen}. "
        "Assign "
        "what is to be frozen to self.backbone in the module's __init__, or derive a callback from BaseFinetuning."
    )
