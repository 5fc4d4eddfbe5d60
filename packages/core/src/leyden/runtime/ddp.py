"""Data parallel training by PyTorch's DistributedDataParallel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils import _pytree

from leyden.arguments import check_arguments, takes
from leyden.errors import MisconfigurationException
from leyden.runtime.collectives import share_from_first
from leyden.runtime.ddp_errors import in_other_words
from leyden.runtime.ddp_options import check_names, checks_of
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
        ddp_comm_wrapper: Makes another hook of `ddp_comm_hook`, as ``fp16_compress_wrapper`` does.
        timeout: How long a process waits for the others before it gives up.
        process_group_backend: "nccl", "gloo", …; by default nccl for CUDA devices and gloo for others.
        **options: What else `DistributedDataParallel` takes, such as ``bucket_cap_mb`` and ``gradient_as_bucket_view``.

    Raises:
        UnknownArgumentError: an option that `DistributedDataParallel` does not have; names the nearest.

    Example:
        >>> DDPStrategy(static_graph=True, bucket_cap_mb=50).options
        {'static_graph': True, 'bucket_cap_mb': 50}
        >>> DDPStrategy(bucket_cap=50)
        Traceback (most recent call last):
        leyden.errors.UnknownArgumentError: DDPStrategy(bucket_cap=50): there is no such option. Did you mean 'bucket_cap_mb'?
    """  # noqa: E501

    def __init__(
        self,
        *,
        find_unused_parameters: bool | None = None,
        static_graph: bool = False,
        ddp_comm_state: object = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        timeout: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(timeout=timeout, process_group_backend=process_group_backend)
        check_names(options)
        unused, hook, wrapper = find_unused_parameters, ddp_comm_hook, ddp_comm_wrapper
        check_arguments(
            "DDPStrategy",
            ("find_unused_parameters", unused, isinstance(unused, bool | None), "True, False or None"),
            ("static_graph", static_graph, isinstance(static_graph, bool), "True or False"),
            ("ddp_comm_hook", hook, hook is None or takes(hook, 2), "a function of a state and a bucket, or None"),
            (
                "ddp_comm_wrapper", wrapper, wrapper is None or (takes(wrapper, 1) and hook is not None),
                "a function of a hook, beside ddp_comm_hook, or None",
            ),
            (
                "ddp_comm_state", ddp_comm_state, ddp_comm_state is None or hook is not None,
                "a ddp_comm_hook beside it, which is given it",
            ),
            *checks_of(options),
        )  # fmt: skip
        self.find_unused_parameters = find_unused_parameters
        self.options = {"static_graph": static_graph, **options}
        self.ddp_comm_state = ddp_comm_state
        self.ddp_comm_hook = ddp_comm_hook if ddp_comm_wrapper is None else ddp_comm_wrapper(ddp_comm_hook)
        self._shares_buffers = options.get("broadcast_buffers") is not False
        self.parallel: DistributedDataParallel | None = None
        """What the training step runs through, while a fit does and there is something to train."""
        self._step: _Step | None = None
        self._trained: list[nn.Parameter] = []
        self._optimizers: Sequence[Optimizer] = ()
        self._holds_back = self._is_known = self._is_prepared = False

    def setup_module(self, module: nn.Module) -> None:
        if any(hasattr(parameter, "full_tensor") for parameter in module.parameters()):
            raise MisconfigurationException(
                f"{type(module).__name__} has its weights in shards, of a run with strategy='fsdp', and strategy="
                "'ddp' wants them whole. Make the module anew and load the checkpoint of that run."
            )
        super().setup_module(module)

    def step_of(self, module: nn.Module, name: str) -> Callable[..., Any]:
        step = super().step_of(module, name)
        if name != "training_step":
            return step
        if not module.automatic_optimization and self.options["static_graph"]:
            raise MisconfigurationException(
                f"DDPStrategy(static_graph=True) with {type(module).__name__}, which steps its optimizers by hand: "
                "torch learns a static graph from the backward of what training_step returns, and would not average "
                "the gradients of other passes. Leave static_graph out."
            )
        self._step, self.parallel = _Step(module, name), None
        self._wrap(self._step)
        self.no_grad_sync = self._without_sync
        return in_place_of(step, self._run if module.automatic_optimization else self._run_manual)

    def step_without_backward(self, module: nn.Module, name: str) -> Callable[..., Any]:
        return super().step_of(module, name)

    def _wrap(self, step: _Step) -> None:
        """Wrap the parameters that are trained now; what is set free later needs another wrapper."""
        self._is_known = False
        self.parallel = None  # the reducer takes its hooks off the parameters as it goes
        self._trained = _trained_of(step)
        if not self._trained:  # nothing whose gradients could be averaged
            return
        unused = self.find_unused_parameters
        with _requiring_gradients(self._trained):
            self.parallel = DistributedDataParallel(
                step,
                device_ids=[self.root_device.index] if self.root_device.type == "cuda" else None,
                find_unused_parameters=not step.module.automatic_optimization if unused is None else unused,
                **self.options,
            )
        if self.ddp_comm_hook is not None:
            self.parallel.register_comm_hook(self.ddp_comm_state, self.ddp_comm_hook)

    def check_optimizers(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        super().check_optimizers(module, optimizers)
        self._optimizers = optimizers

    def begin_epoch(self, num_batches: int | float) -> None:
        """Let what has been frozen or set free since the last epoch leave or join the gradients that are averaged."""
        super().begin_epoch(num_batches)
        if self._step is None:
            return
        now = _trained_of(self._step)
        if len(now) != len(self._trained) or any(a is not b for a, b in zip(now, self._trained, strict=True)):
            before = {id(parameter) for parameter in self._trained}
            self._wrap(self._step)
            self._share_states([parameter for parameter in now if id(parameter) not in before])

    def _share_states(self, joined: list[nn.Parameter]) -> None:
        """Let all have process 0's moments of what has joined: one that was set free in an epoch got its own by then.

        Wrapping does the same for weights. Without the moments they would go apart again in the next step.
        """
        if self.world_size == 1:
            return
        states = [optimizer.state.get(one, {}) for optimizer in self._optimizers for one in joined]
        share_from_first([value for state in states for value in state.values() if _is_on(value, self.root_device)])

    def _run(self, *args: Any) -> Any:
        return (self.parallel or self._step)(*args)  # type: ignore[misc]

    def _run_manual(self, *args: Any) -> Any:
        """Run a step that calls backward itself: each of its passes is prepared for as it comes, not the step's end."""
        parallel = self.parallel
        if parallel is None:
            return self._run(*args)
        parallel.require_backward_grad_sync = False
        watched = self.world_size > 1 and not self._is_prepared and not self._has_gradients()
        try:
            result = parallel(*args)
        finally:
            parallel.require_backward_grad_sync = True
        if watched and not self._is_prepared and self._has_gradients():
            raise MisconfigurationException(
                "training_step has called backward() of a tensor: its gradients are those of this process only. Call "
                "self.manual_backward(loss) in its place, which averages them over the processes."
            )
        return result

    def _has_gradients(self) -> bool:
        return any(parameter.grad is not None for parameter in self._trained)

    def before_backward(self, loss: Tensor) -> None:
        parallel = self.parallel
        self._is_prepared = True
        if parallel is None or self._holds_back:
            return
        parallel.require_forward_param_sync = True
        searched = parallel.find_unused_parameters and not parallel.static_graph
        parallel.reducer.prepare_for_backward(_tensors_in(loss) if searched else [])

    def left_out(self, module: nn.Module, window_open: bool) -> None:
        if self._holds_back:  # nobody waits for anybody
            return
        super().left_out(module, window_open)
        if window_open:
            for parameter in self._trained:
                if parameter.grad is not None:
                    parameter.grad.copy_(self.reduce(parameter.grad))

    @contextlib.contextmanager
    def _without_sync(self) -> Iterator[None]:
        parallel, outer = self.parallel, self._holds_back
        if parallel is None or (parallel.static_graph and not self._is_known):
            self._is_known = True  # the pass in which a static graph is learnt has to be synchronised
            yield
            return
        self._holds_back = True
        try:
            with parallel.no_sync():
                yield
        finally:
            self._holds_back = outer

    def explain(self, error: BaseException) -> BaseException:
        if self._step is not None and isinstance(error, RuntimeError):
            named = {id(parameter): name for name, parameter in self._step.module.named_parameters()}
            names = [named.get(id(parameter), "one that is gone") for parameter in self._trained]  # frozen since or not
            error = in_other_words(error, names) or error
        return super().explain(error)

    def teardown(self) -> None:
        self.parallel = self._step = self.no_grad_sync = None
        self._trained, self._optimizers, self._is_prepared = [], (), False
        super().teardown()


class _Step(nn.Module):
    """A step of a module as the ``forward`` that DistributedDataParallel calls."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module: Any = module
        self._name = name

    def forward(self, *args: Any) -> Any:
        return getattr(self.module, self._name)(*args)


def _trained_of(step: _Step) -> list[nn.Parameter]:
    """What is trained, also what a step has left toggled for one of its optimizers: the next sets it free again."""
    toggled = step.module._toggled or {}
    return [parameter for parameter in step.parameters() if parameter.requires_grad or toggled.get(parameter)]


@contextlib.contextmanager
def _requiring_gradients(parameters: list[nn.Parameter]) -> Iterator[None]:
    off = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in off:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in off:
            parameter.requires_grad_(False)


def _is_on(value: object, device: torch.device) -> bool:
    """Whether it can be sent from there; counts of steps in CPU memory are the same in all processes."""
    return isinstance(value, Tensor) and value.device.type == device.type


def _tensors_in(value: Any) -> list[Tensor]:
    return [leaf for leaf in _pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
