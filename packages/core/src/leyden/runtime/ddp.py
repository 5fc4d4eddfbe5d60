"""Data parallel training by PyTorch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from leyden.runtime.distributed import DistributedStrategy, in_place_of

__all__ = ["DDPStrategy"]


class DDPStrategy(DistributedStrategy):
    """Every process has all weights; gradients are averaged over the processes in each backward pass.

    Args:
        find_unused_parameters: Let parameters go without a gradient in some steps; costs a walk of the graph a step.
        static_graph: Promise that each step uses the same parameters.
        ddp_comm_state: First argument of `ddp_comm_hook`.
        ddp_comm_hook: How gradients are sent: one of ``torch.distributed.algorithms.ddp_comm_hooks``.
        timeout: How long a process waits for the others before it gives up.
        process_group_backend: "nccl", "gloo", …; by default nccl for CUDA devices and gloo for others.
        **options: What else `DistributedDataParallel` takes, such as ``bucket_cap_mb`` and ``gradient_as_bucket_view``.

    Example:
        >>> DDPStrategy(static_graph=True).options
        {'find_unused_parameters': False, 'static_graph': True}
    """

    def __init__(
        self,
        *,
        find_unused_parameters: bool = False,
        static_graph: bool = False,
        ddp_comm_state: object = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        timeout: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, process_group_backend=process_group_backend)
        self.options = {"find_unused_parameters": find_unused_parameters, "static_graph": static_graph, **options}
        self.ddp_comm_state, self.ddp_comm_hook = ddp_comm_state, ddp_comm_hook
        self.parallel: DistributedDataParallel | None = None
        """What the training step runs through, while a fit does."""

    def step_of(self, module: nn.Module, name: str) -> Callable[..., Any]:
        step = super().step_of(module, name)
        if name != "training_step" or not any(parameter.requires_grad for parameter in module.parameters()):
            return step
        on_device = self.root_device.type == "cuda"
        self.parallel = parallel = DistributedDataParallel(
            _Step(module, name), device_ids=[self.root_device.index] if on_device else None, **self.options
        )
        if self.ddp_comm_hook is not None:
            parallel.register_comm_hook(self.ddp_comm_state, self.ddp_comm_hook)
        self.no_grad_sync = parallel.no_sync
        return in_place_of(step, parallel)

    def teardown(self) -> None:
        self.parallel = self.no_grad_sync = None
        super().teardown()


class _Step(nn.Module):
    """A step of a module as the ``forward`` that DistributedDataParallel calls."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self._name = module, name

    def forward(self, *args: Any) -> Any:
        return getattr(self.module, self._name)(*args)
