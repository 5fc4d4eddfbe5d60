"""Data parallel training by PyTorch's DistributedDataParallel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

from leyden.runtime.distributed import DistributedStrategy, in_place_of

__all__ = ["DDPStrategy"]


class DDPStrategy(DistributedStrategy):
    """Every process has all weights; gradients are averaged over the processes in each backward pass.

    Args:
        find_unused_parameters: Let parameters go without a gradient in some steps; costs a walk of the graph a step.
            By default for modules with manual optimisation, whose backward passes are of a part each.
        static_graph: Promise that each step uses the same parameters.
        ddp_comm_state: First argument of `ddp_comm_hook`.
        ddp_comm_hook: How gradients are sent: one of ``torch.distributed.algorithms.ddp_comm_hooks``.
        timeout: How long a process waits for the others before it gives up.
        process_group_backend: "nccl", "gloo", …; by default nccl for CUDA devices and gloo for others.
        **options: What else `DistributedDataParallel` takes, such as ``bucket_cap_mb`` and ``gradient_as_bucket_view``.

    Example:
        >>> DDPStrategy(static_graph=True, bucket_cap_mb=50).options
        {'static_graph': True, 'bucket_cap_mb': 50}
    """

    def __init__(
        self,
        *,
        find_unused_parameters: bool | None = None,
        static_graph: bool = False,
        ddp_comm_state: object = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        timeout: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, process_group_backend=process_group_backend)
        self.find_unused_parameters = find_unused_parameters
        self.options = {"static_graph": static_graph, **options}
        self.ddp_comm_state, self.ddp_comm_hook = ddp_comm_state, ddp_comm_hook
        self.parallel: DistributedDataParallel | None = None
        """What the training step runs through, while a fit does."""
        self._trained: list[nn.Parameter] = []
        self._holds_back = False

    def step_of(self, module: nn.Module, name: str) -> Callable[..., Any]:
        step = super().step_of(module, name)
        if name != "training_step":
            return step
        self.parallel = self._wrap(_Step(module, name))
        self.no_grad_sync = self._without_sync
        return in_place_of(step, self._run if module.automatic_optimization else self._run_manual)

    def _wrap(self, step: _Step) -> DistributedDataParallel:
        """Wrap the parameters that are trained now; what is set free later needs another one."""
        self._trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
        on_device = self.root_device.type == "cuda"
        unused = self.find_unused_parameters
        parallel = DistributedDataParallel(
            step,
            device_ids=[self.root_device.index] if on_device else None,
            find_unused_parameters=not step.module.automatic_optimization if unused is None else unused,
            **self.options,
        )
        if self.ddp_comm_hook is not None:
            parallel.register_comm_hook(self.ddp_comm_state, self.ddp_comm_hook)
        return parallel

    def begin_epoch(self) -> None:
        """Let what has been frozen or set free since the last epoch leave or join the gradients that are averaged."""
        if self.parallel is None:
            return
        step: Any = self.parallel.module
        now = [parameter for parameter in step.parameters() if parameter.requires_grad]
        if len(now) != len(self._trained) or any(a is not b for a, b in zip(now, self._trained, strict=True)):
            self.parallel = None  # the reducer takes its hooks off the parameters as it goes
            self.parallel = self._wrap(step)

    def _run(self, *args: Any) -> Any:
        assert self.parallel is not None
        return self.parallel(*args)

    def _run_manual(self, *args: Any) -> Any:
        """Run a step that calls backward itself: each of its passes is prepared for as it comes, not the step's end."""
        assert self.parallel is not None
        self.parallel.require_backward_grad_sync = False
        try:
            return self.parallel(*args)
        finally:
            self.parallel.require_backward_grad_sync = True

    def before_backward(self, loss: Tensor) -> None:
        parallel = self.parallel
        if parallel is None or self._holds_back:
            return
        parallel.require_forward_param_sync = True
        searched = parallel.find_unused_parameters and not parallel.static_graph
        parallel.reducer.prepare_for_backward(_tensors_in(loss) if searched else [])

    @contextlib.contextmanager
    def _without_sync(self) -> Iterator[None]:
        assert self.parallel is not None
        outer, self._holds_back = self._holds_back, True
        try:
            with self.parallel.no_sync():
                yield
        finally:
            self._holds_back = outer

    def teardown(self) -> None:
        self.parallel = self.no_grad_sync = None
        self._trained = []
        super().teardown()


class _Step(nn.Module):
    """A step of a module as the ``forward`` that DistributedDataParallel calls."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module: Any = module
        self._name = name

    def forward(self, *args: Any) -> Any:
        return getattr(self.module, self._name)(*args)


def _tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
