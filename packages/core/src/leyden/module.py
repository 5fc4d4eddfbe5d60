"""``LightningModule``: a model with its steps, its optimizers and the hooks of its training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from leyden.errors import MisconfigurationException
from leyden.module_export import ModuleExport
from leyden.module_loading import LoadableModule
from leyden.module_optimization import OptimizationSteps
from leyden.rank_zero import rank_zero_warn
from leyden.types import STEP_OUTPUT

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LightningModule"]


class LightningModule(OptimizationSteps, ModuleExport, LoadableModule):
    """An ``nn.Module`` that says how it is trained; a ``Trainer`` does it.

    Override `training_step` and `configure_optimizers`, and of the rest what is wanted. It stays a plain ``nn.Module``:
    it can be called, moved, copied, pickled and saved without a trainer.

    Attributes:
        automatic_optimization: False for steps that call `manual_backward` and the optimizers themselves.
        changes_weights: True where its hooks change weights, or a batch may fail after the optimizer's step. Where a
            callback `saves_on_exception`, they are then copied before each batch.
        strict_loading: whether weights of a checkpoint must fit the module's exactly.
        example_input_array: an input of `forward`, for exports and summaries; a tuple holds positional arguments and a
            dict keyword arguments.

    Example:
        >>> class Regression(LightningModule):
        ...     def __init__(self, lr: float = 0.1) -> None:
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...
        ...     def training_step(self, batch, batch_idx):
        ...         x, y = batch
        ...         loss = torch.nn.functional.mse_loss(self.layer(x), y)
        ...         self.log("loss", loss)
        ...         return loss
        ...
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        >>> Regression(lr=0.5).configure_optimizers().defaults["lr"]
        0.5
    """

    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Compute the loss of a batch; arguments are ``batch, batch_idx``.

        Returns:
            The loss, a dict that holds it under ``loss``, or None to skip the batch. Manual optimisation needs none.
        """
        raise _missing(self, "training_step", "fit")

    def validation_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Validate with a batch; arguments are ``batch, batch_idx`` and, with several loaders, ``dataloader_idx``."""
        raise _missing(self, "validation_step", "validate")

    def test_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Evaluate a batch in ``Trainer.test``; arguments are those of `validation_step`."""
        raise _missing(self, "test_step", "test")

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the predictions for a batch: by default ``self(batch)``."""
        return self(args[0] if args else kwargs["batch"])

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[[Any], Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a value under `name`, at this step, over the epoch, or both.

        Args:
            name: key of the value; ``name_step`` and ``name_epoch`` when it is logged for both.
            value: a number, a tensor of one element, a torchmetrics ``Metric`` or ``MetricCollection``.
            prog_bar: whether the progress bar shows it.
            logger: whether the loggers get it; by default they do.
            on_step: whether it counts at this step; by default as the hook it is logged in suggests.
            on_epoch: whether it is reduced over the epoch; by default as the hook it is logged in suggests.
            reduce_fx: "mean" (weighted by batch size), "sum", "min", "max", or a function of the stacked values.
            enable_graph: keep the value's autograd graph.
            sync_dist: reduce over the processes.
            sync_dist_group: process group to reduce in.
            add_dataloader_idx: append ``/dataloader_idx_N`` where there are several evaluation loaders.
            batch_size: weight of this value; found in the batch when not given.
            metric_attribute: attribute of this module that holds the metric, where it cannot be found by itself.
            rank_zero_only: log in the first process alone.

        Raises:
            MisconfigurationException: the hook now running cannot log so; the message names it.
        """
        trainer = self._trainer
        if trainer is None:
            self._warn_of_lost_log()
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
        reduce_fx: str | Callable[[Any], Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log each value of a mapping, or each metric of a torchmetrics ``MetricCollection``, as `log` does."""
        trainer = self._trainer
        if trainer is None:
            self._warn_of_lost_log()
            return
        log = trainer.journal.log
        for name, value in _entries(dictionary):
            log(
                name, value, prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
                add_dataloader_idx, batch_size, None, rank_zero_only,
            )  # fmt: skip

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print in the first process only, above the progress bar where there is one."""
        if self._trainer is None:
            print(*args, **kwargs)
        else:
            self._trainer.print(*args, **kwargs)

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """Return `data` with each tensor or number in it stacked over the processes along a new first dimension.

        With one process tensors come back as they are. `sync_grads` lets gradients flow through.

        Raises:
            MisconfigurationException: the processes have tensors of different shapes or dtypes, or gather a different
                number of times, as where their shares of an evaluation differ; looked at outside of training.
        """
        strategy, device = self.trainer.strategy, self.device
        if strategy.world_size > 1 and not self.trainer.training:
            given = [
                (str(one.dtype), tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__
                for one in tree_leaves(data)
                if isinstance(one, Tensor | bool | int | float)
            ]
            if not strategy.all_say(("all_gather", given), group):
                raise _different_tensors(strategy.global_rank, given)

        def gather(value: Any) -> Any:
            if isinstance(value, bool | int | float):
                value = torch.tensor(value, device=device)
            return strategy.all_gather(value, group, sync_grads) if isinstance(value, Tensor) else value

        return tree_map(gather, data)

    def freeze(self) -> Self:
        """Make every parameter need no gradient, and put the module into evaluation mode."""
        self.requires_grad_(False)
        return self.eval()

    def unfreeze(self) -> Self:
        """Make every parameter need gradients, and put the module into training mode."""
        self.requires_grad_(True)
        return self.train()

    def _warn_of_lost_log(self) -> None:
        if "_warned_of_lost_log" not in self.__dict__:
            self.__dict__["_warned_of_lost_log"] = True
            rank_zero_warn(
                f"{type(self).__qualname__} logs while it is not attached to a Trainer: its values are ignored. They "
                "are kept when a Trainer runs the step."
            )


def _entries(dictionary: Any) -> Any:
    """Return pairs of name and value; a metric collection gives its metrics themselves, under their prefixed names."""
    torchmetrics = sys.modules.get("torchmetrics")
    if torchmetrics is not None and isinstance(dictionary, torchmetrics.MetricCollection):
        return dictionary.items(keep_base=False, copy_state=False)
    if not isinstance(dictionary, Mapping):
        raise MisconfigurationException(
            f"log_dict got {dictionary!r} ({type(dictionary).__name__}); expected a mapping of names to values "
            "or a MetricCollection. "
            "For a single value use self.log(name, value)."
        )
    return dictionary.items()


def _missing(module: LightningModule, step: str, entry_point: str) -> MisconfigurationException:
    name = type(module).__qualname__
    return MisconfigurationException(
        f"{name} has no {step}, which trainer.{entry_point} needs. Define {name}.{step}(self, batch, batch_idx)."
    )


def _different_tensors(rank: int, given: list[Any]) -> MisconfigurationException:
    return MisconfigurationException(
        f"self.all_gather got {given!r:.200} in process {rank}, and in another process something else, or is not "
        "called there as often. Tensors that are gathered have one shape and dtype in all processes, whose shares of "
        "an evaluation differ by a sample and may differ by a batch: gather in on_..._epoch_end, fill tensors up to "
        "the same size, or have the value reduced by self.log(..., sync_dist=True) or a metric of torchmetrics."
    )


# TorchScript compiles properties of a module unless told not to; none of these is part of a model.
LightningModule.__jit_unused_properties__ = sorted(  # type: ignore[attr-defined]
    name for name in dir(LightningModule) if isinstance(getattr(LightningModule, name), property)
)
