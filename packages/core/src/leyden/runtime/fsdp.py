"""Sharded training by PyTorch's FSDP2: ``torch.distributed.fsdp.fully_shard``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from leyden.errors import MisconfigurationException
from leyden.runtime.distributed import DistributedStrategy, in_place_of

__all__ = ["FSDPStrategy"]


class FSDPStrategy(DistributedStrategy):
    """Every process has a share of each weight, its gradient and its optimizer state; FSDP2 gathers what a layer needs.

    Args:
        wrap: Which submodules are gathered on their own: classes, or a function of name and module that returns
            whether to; by default each entry of a ``ModuleList`` or ``Sequential`` that has parameters. What is in none
            of them is gathered for a whole step.
        reshard_after_forward: Give gathered weights back after a module's forward; see ``fully_shard``.
        cpu_offload: Keep shares and optimizer states in CPU memory.
        mp_policy: Dtypes to gather and reduce in; by default what the Trainer's `precision` says.
        timeout: How long a process waits for the others before it gives up.
        process_group_backend: "nccl", "gloo", …; by default nccl for CUDA devices and gloo for others.

    Example:
        >>> FSDPStrategy(wrap={nn.TransformerEncoderLayer}).reshard_after_forward
        True
    """

    allows_inference_mode = False  # a weight that is first gathered in evaluation could not be trained on

    def __init__(
        self,
        *,
        wrap: Collection[type[nn.Module]] | Callable[[str, nn.Module], bool] | None = None,
        reshard_after_forward: bool | int = True,
        cpu_offload: bool = False,
        mp_policy: MixedPrecisionPolicy | None = None,
        timeout: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(timeout=timeout, process_group_backend=process_group_backend)
        self.wrap, self.reshard_after_forward, self.cpu_offload = _as_function(wrap), reshard_after_forward, cpu_offload
        self.mp_policy = mp_policy

    def setup_module(self, module: nn.Module) -> None:
        super().setup_module(module)
        if isinstance(module, FSDPModule):  # of an earlier run
            return
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": self.reshard_after_forward}
        if self.mp_policy is not None:
            options["mp_policy"] = self.mp_policy
        if self.cpu_offload:
            options["offload_policy"] = CPUOffloadPolicy()
        chosen = [one for name, one in module.named_modules() if name and self.wrap(name, one)]
        for one in reversed(chosen):  # inner modules first, as fully_shard wants it
            fully_shard(one, **options)
        fully_shard(module, **options)
        self.no_grad_sync = lambda: _without_sync(module)

    def step_of(self, module: nn.Module, name: str) -> Callable[..., Any]:
        if name not in vars(module):
            register_fsdp_forward_method(module, name)
        own: Callable[..., Any] = getattr(type(module), name).__get__(module)
        return in_place_of(own, getattr(module, name))

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextlib.contextmanager
def _without_sync(module: Any) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def _as_function(wrap: Any) -> Callable[[str, nn.Module], bool]:
    if wrap is None:
        return lambda name, module: False
    if callable(wrap) and not isinstance(wrap, type):
        return wrap  # type: ignore[no-any-return]
    classes = tuple(wrap) if isinstance(wrap, Collection) else ()
    if not classes or not all(isinstance(one, type) and issubclass(one, nn.Module) for one in classes):
        raise MisconfigurationException(
            f"FSDPStrategy(wrap={wrap!r:.80}): expected a set of nn.Module classes, such as "
            "{nn.TransformerEncoderLayer}, or a function of name and module."
        )
    return lambda name, module: isinstance(module, classes)
