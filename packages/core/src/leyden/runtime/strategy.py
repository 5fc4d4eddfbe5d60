"""The seam to more than one process: the loops call the strategy and never ask how many processes there are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from leyden.errors import MisconfigurationException

__all__ = ["SingleDeviceStrategy", "Strategy", "choose_strategy"]


class Strategy:
    """Where a module runs, how a step reaches it and how processes agree. One process is the base case.

    Attributes:
        root_device: device of this process.
        no_grad_sync: makes the context for a backward whose gradients need not be synchronised yet; None where there is
            nothing to hold back.
    """

    no_grad_sync: Callable[[], AbstractContextManager[Any]] | None = None

    def __init__(self, root_device: torch.device) -> None:
        self.root_device = root_device

    global_rank = local_rank = node_rank = 0
    world_size = 1

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.global_rank == 0

    def setup_module(self, module: nn.Module) -> None:
        """Move the weights to the device."""
        module.to(self.root_device)

    def prepare_loader(self, loader: Any, stage: str) -> Any:
        """Return the loader this process reads instead of `loader`; `stage` is "train", "validate", "test", "predict".

        Not asked with ``Trainer(use_distributed_sampler=False)``.
        """
        return loader

    def step_of(self, module: nn.Module, name: str) -> Callable[..., Any]:
        """Return the callable for the module's ``training_step``, ``validation_step``, … as this strategy runs it."""
        step: Callable[..., Any] = getattr(module, name)
        return step

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        """Clip by the norm over all processes' gradients; return that norm before clipping."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def barrier(self, name: str | None = None) -> None:
        """Wait until every process is here."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Return process `src`'s object in every process."""
        return obj

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        """Return `tensor` reduced over all processes ("mean", "sum", "min", "max")."""
        return tensor

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Return whether all (or any) processes say yes."""
        return decision

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Return the processes' tensors stacked along a new first dimension; one process's own as it is."""
        return tensor

    def teardown(self) -> None:
        """Give up what `setup_module` took."""


class SingleDeviceStrategy(Strategy):
    """One process, one device."""


def choose_strategy(strategy: object, root_device: torch.device) -> Strategy:
    """Return the strategy the Trainer's `strategy` names; an instance is taken as it is."""
    if isinstance(strategy, Strategy):
        return strategy
    if strategy in ("auto", "single_device"):
        return SingleDeviceStrategy(root_device)
    raise MisconfigurationException(
        f"Trainer(strategy={strategy!r}): expected 'auto' or an instance of leyden.runtime.strategy.Strategy; "
        "this version trains in one process on one device."
    )
