"""Sharded training by PyTorch's FSDP2: ``torch.distributed.fsdp.fully_shard``."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import CustomPolicy, ModuleWrapPolicy
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import LBFGS, Optimizer

from leyden.arguments import check_arguments, takes
from leyden.errors import MisconfigurationException, UnknownArgumentError, did_you_mean
from leyden.rank_zero import rank_zero_warn
from leyden.runtime.distributed import DistributedStrategy, in_place_of
from leyden.runtime.meta import fill_meta
from leyden.runtime.sharding import (
    Gathering,
    check_hooks,
    check_ties,
    gather_for_calls,
    gathered_step,
    gathering_of,
    give_back,
    place_whole,
    roots_of,
)
from leyden.runtime.unsynced import set_unsynced_gradients, unsynced_gradients

__all__ = ["FSDPStrategy"]

_INSTEAD = {
    "accelerator": "write Trainer(accelerator=...)",
    "activation_checkpointing": "call torch.utils.checkpoint in the module's forward",
    "activation_checkpointing_policy": "call torch.utils.checkpoint in the module's forward",
    "cluster_environment": "torchrun and SLURM are recognised by their variables",
    "device_mesh": "weights are sharded over all processes",
    "mixed_precision": "write mp_policy, a torch.distributed.fsdp.MixedPrecisionPolicy, or Trainer(precision=...)",
    "parallel_devices": "write Trainer(devices=...)",
    "precision_plugin": "write Trainer(precision=...)",
    "sharding_strategy": "write reshard_after_forward=True for 'FULL_SHARD', False for 'SHARD_GRAD_OP'",
    "use_orig_params": "parameters are always those of the module",
}
"""Arguments of Lightning's strategy."""


class FSDPStrategy(DistributedStrategy):
    """Every process has a share of each weight, its gradient and its optimizer state; FSDP2 gathers what a layer needs.

    A module is gathered as a whole for a step, unless `wrap` names parts that are gathered, and given back, one after
    the other. Those must run in every process and step, in the same order.

    Args:
        wrap: Which submodules are gathered on their own: classes, or a function of name and module that returns
            whether to.
        reshard_after_forward: Whether parts give gathered weights back after their forward, and gather them again for
            their backward. What is in no part is kept until the step is done.
        cpu_offload: Keep shares and optimizer states in CPU memory.
        mp_policy: Dtypes to gather and reduce in. By default those of ``Trainer(precision="bf16-mixed")`` or
            "16-mixed" on CUDA devices: weights are gathered in that dtype, gradients reduced in 32 bits.
        auto_wrap_policy: Lightning's name of `wrap`.
        state_dict_type: How checkpoints are kept: "full" in one file, for which the first process gathers all, or
            "sharded" in a folder that all processes write, each its share.
        timeout: How long a process waits for the others before it gives up.
        process_group_backend: "nccl", "gloo", …; by default nccl for CUDA devices and gloo for others.

    Example:
        >>> strategy = FSDPStrategy(wrap={nn.TransformerEncoderLayer}, reshard_after_forward=False)
    """

    shards_weights = True

    allows_inference_mode = False  # a weight that is first gathered in evaluation could not be trained on

    def __init__(
        self,
        *,
        wrap: Collection[type[nn.Module]] | Callable[[str, nn.Module], bool] | None = None,
        reshard_after_forward: bool = True,
        cpu_offload: bool = False,
        mp_policy: MixedPrecisionPolicy | None = None,
        auto_wrap_policy: Collection[type[nn.Module]] | None = None,
        state_dict_type: Literal["full", "sharded"] = "full",
        timeout: timedelta = timedelta(minutes=30),
        process_group_backend: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__(timeout=timeout, process_group_backend=process_group_backend)
        for name, value in unknown.items():
            known = inspect.signature(FSDPStrategy).parameters
            instead = f" Instead: {_INSTEAD[name]}." if name in _INSTEAD else did_you_mean(name, known)
            raise UnknownArgumentError(f"FSDPStrategy({name}={value!r:.80}): there is no such argument.{instead}")
        reshard = reshard_after_forward
        check_arguments(
            "FSDPStrategy",
            ("reshard_after_forward", reshard, isinstance(reshard, bool), "True or False"),
            ("cpu_offload", cpu_offload, isinstance(cpu_offload, bool), "True or False"),
            ("mp_policy", mp_policy, isinstance(mp_policy, MixedPrecisionPolicy | None), "a MixedPrecisionPolicy"),
            ("auto_wrap_policy", auto_wrap_policy, wrap is None or auto_wrap_policy is None, "no wrap beside it"),
            ("state_dict_type", state_dict_type, state_dict_type in ("full", "sharded"), "'sharded' or 'full'"),
        )
        self.wrap = _as_function(auto_wrap_policy if wrap is None else wrap)
        self._wraps = wrap is not None or auto_wrap_policy is not None
        self.reshard_after_forward, self.cpu_offload, self.mp_policy = reshard_after_forward, cpu_offload, mp_policy
        self.state_dict_type = state_dict_type
        self._roots: list[Any] = []
        self._module: nn.Module | None = None
        self._steps_as_one = True
        self._holds_back = False

    def connect(self, root_device: torch.device, place: Any) -> None:
        if self.cpu_offload and root_device.type == "cpu":
            raise MisconfigurationException(
                "FSDPStrategy(cpu_offload=True) on the CPU: weights are in its memory anyway; leave cpu_offload out."
            )
        super().connect(root_device, place)

    def _default_backend(self) -> str:
        backend = super()._default_backend()
        return f"cpu:gloo,cuda:{backend}" if self.cpu_offload else backend  # norms of what is in CPU memory

    def setup_module(self, module: nn.Module) -> None:
        self._steps_as_one = bool(getattr(module, "automatic_optimization", True))
        roots = [module] if self._steps_as_one else roots_of(module)
        if not any(isinstance(one, FSDPModule) for one in module.modules()):  # else of an earlier run
            self._shard(module, roots)
        elif not all(isinstance(root, FSDPModule) for root in roots):
            raise MisconfigurationException(
                f"{type(module).__name__} was sharded for the other setting of automatic_optimization; make it anew."
            )
        fill_meta(module, self.root_device)
        for tensor in _not_yet(module):
            tensor.data = tensor.data.to(self.root_device)
        self._roots, self._module = roots, module
        self.no_grad_sync = self._without_sync

    def _shard(self, module: nn.Module, roots: list[nn.Module]) -> None:
        """Shard each part as it is placed, inner ones first: no device ever has all weights, unless one part has."""
        chosen = [one for name, one in module.named_modules() if one is not module and self.wrap(name, one)]
        if self._wraps and not chosen:
            rank_zero_warn(
                f"FSDPStrategy(wrap=...) names no layer of {type(module).__name__}, which is gathered as a whole for "
                f"each step. It has layers of {', '.join(sorted({type(one).__name__ for one in module.children()}))}."
            )
        policy = self._mp_policy()
        apart = [one for one in module.modules() if isinstance(one, _BatchNorm)] if policy.param_dtype else []
        units = [*dict.fromkeys((*reversed(chosen), *apart, *reversed(roots)))]
        units.sort(key=lambda one: sum(1 for _ in one.modules()))  # a part has fewer modules than what it is in
        check_ties(module, units)
        check_hooks(module)
        options: dict[str, Any] = {"mesh": init_device_mesh(self.root_device.type, (self.world_size,))}
        if self.cpu_offload:
            options["offload_policy"] = CPUOffloadPolicy()
        for unit in units:
            place_whole(unit, self.root_device, shared=self.world_size > 1)
            # Statistics of BatchNorm are in 32 bits, and its kernels want the weights to be so too.
            own = MixedPrecisionPolicy() if unit in apart else policy
            fully_shard(unit, mp_policy=own, reshard_after_forward=self._gives_back(unit, roots), **options)
        if isinstance(module, FSDPModule):
            gather_for_calls(module)

    def _gives_back(self, unit: nn.Module, roots: Sequence[nn.Module]) -> bool:
        """Whether a part gives its weights back after its forward.

        The module as a whole does when its step is done. One that a step goes backward through always does: the step
        may call it again after backward, and step the optimizer then.
        """
        return not self._steps_as_one if unit in roots else self.reshard_after_forward

    def _mp_policy(self) -> MixedPrecisionPolicy:
        """Gather in the dtype of autocast, which casts each weight to it anyway; but not on a CPU, whose norms mind."""
        if self.mp_policy is not None:
            return self.mp_policy
        name = "" if self.precision is None else self.precision.name
        if not name.endswith("-mixed") or self.root_device.type != "cuda":
            return MixedPrecisionPolicy()
        half = torch.float16 if name == "16-mixed" else torch.bfloat16
        return MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)

    def step_of(self, module: nn.Module, name: str) -> Callable[..., Any]:
        if not isinstance(module, FSDPModule):  # its parts are gathered as they run
            return super().step_of(module, name)
        step = gathered_step(module, name)
        return in_place_of(getattr(module, name), step)

    def begin_epoch(self, num_batches: int | float) -> None:
        """Refuse what is trained and was made too late to be sharded: nobody would average its gradients."""
        super().begin_epoch(num_batches)
        module = self._module
        late = [
            name
            for name, one in ([] if module is None or self.world_size == 1 else module.named_parameters())
            if one.requires_grad and not isinstance(one, DTensor)
        ]
        if late:
            raise MisconfigurationException(
                f"{type(module).__name__} has got {', '.join(late[:10])} after strategy='fsdp' has sharded what there "
                "was: each process would train its own. Make it in configure_model, setup or __init__."
            )

    def check_optimizers(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        own = {id(parameter) for parameter in module.parameters()}
        for optimizer in optimizers:
            name = type(optimizer).__name__
            if isinstance(optimizer, LBFGS):
                raise MisconfigurationException(
                    "strategy='fsdp' with LBFGS, which lays all gradients end to end, and they are in shards; use "
                    "strategy='ddp' or another optimizer."
                )
            if any(id(parameter) not in own for group in optimizer.param_groups for parameter in group["params"]):
                raise MisconfigurationException(
                    f"{name} has parameters that {type(module).__name__} has not: strategy='fsdp' puts shards in their "
                    "place before configure_optimizers is called. Make the optimizer there, of self.parameters()."
                )

    @contextlib.contextmanager
    def evaluating(self, module: nn.Module, num_batches: Sequence[int | float]) -> Iterator[None]:
        """Gather all beforehand where processes have different numbers of batches: none waits for one that ended.

        Else weights are gathered as in training, a part at a time.
        """
        units = [one for one in module.modules() if isinstance(one, FSDPModule)]
        record = gathering_of(module) if isinstance(module, FSDPModule) else Gathering()
        record.for_pass = True
        uneven = self._is_uneven(num_batches)
        try:
            with super().evaluating(module, num_batches):
                for unit in units if uneven else ():
                    unit.unshard()
                    unit.set_reshard_after_forward(False, recurse=False)
                yield
        finally:
            record.for_pass = False
            for unit in units if uneven else ():
                unit.set_reshard_after_forward(self._gives_back(unit, self._roots), recurse=False)
            give_back(module)

    def _is_uneven(self, num_batches: Sequence[int | float]) -> bool:
        if self.world_size == 1:
            return False
        counts = torch.tensor([*num_batches, *(-number for number in num_batches)], dtype=torch.float64)
        most, least = self.reduce(counts.to(self.root_device), reduce_op="max").chunk(2)
        return bool((most != -least).any()) or math.inf in most

    def gradients(self, module: nn.Module) -> dict[str, Tensor]:
        return {**super().gradients(module), **unsynced_gradients(module)}

    def set_gradients(self, module: nn.Module, gradients: Mapping[str, Tensor], window_open: bool) -> None:
        if window_open:
            set_unsynced_gradients(module, gradients, self.root_device)
        else:
            super().set_gradients(module, gradients, window_open)

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def left_out(self, module: nn.Module, window_open: bool) -> None:
        super().left_out(module, window_open)
        if window_open and not self._holds_back:
            raise MisconfigurationException(
                "training_step returned None for the last batch of an accumulation window whose gradients the "
                "processes have not averaged yet, which FSDP2 does in a backward only. Return a loss of zero that "
                "comes from the weights, such as 0.0 * self(batch).sum(), or use strategy='ddp'."
            )

    @contextlib.contextmanager
    def _without_sync(self) -> Iterator[None]:
        self._holds_back = True
        for root in self._roots:
            root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self._holds_back = False
            for root in self._roots:
                root.set_requires_gradient_sync(True)

    def explain(self, error: BaseException) -> BaseException:
        if isinstance(error, RuntimeError) and "got mixed torch.Tensor and DTensor" in str(error):
            error = MisconfigurationException(
                f"A layer was used while its weights were in shards ({str(error).split(' got mixed')[0]}). They are "
                "gathered for training_step, validation_step, test_step, predict_step and forward; elsewhere call the "
                "module itself, self(batch), or let FSDPStrategy(wrap=...) name the layer. One whose weights another "
                "layer takes without calling it, as MultiheadAttention does those of its out_proj, cannot be in wrap: "
                "name the other."
            )
        elif isinstance(error, RuntimeError) and "Sharding propagation failed" in str(error):
            error = MisconfigurationException(
                f"An operation that torch does not have for weights in shards ({str(error).partition(': ')[0]}). "
                "Optimizers such as Rprop and Adafactor use some: take another, as AdamW or SGD, or strategy='ddp'."
            )
        elif isinstance(error, AssertionError) and "uniform original parameter dtype" in str(error):
            error = MisconfigurationException(
                "Weights that are gathered together have several dtypes, of which FSDP2 takes one "
                f"({str(error).partition('but got ')[2]}). Let FSDPStrategy(wrap=...) name the layers of the "
                "others, or give all one dtype."
            )
        return super().explain(error)

    def teardown(self) -> None:
        self.no_grad_sync, self._roots, self._module = None, [], None
        super().teardown()


def _not_yet(module: nn.Module) -> list[Tensor]:
    """Buffers, and whatever else no part has placed: modules under manual optimisation are not sharded as a whole."""
    return [one for one in module.buffers() if not isinstance(one, DTensor)]


def _as_function(wrap: Any) -> Callable[[str, nn.Module], bool]:
    if wrap is None:
        return lambda name, module: False
    if isinstance(wrap, ModuleWrapPolicy | CustomPolicy):
        raise MisconfigurationException(
            f"FSDPStrategy(wrap={wrap!r:.80}): policies of torch.distributed.fsdp.wrap are those of FSDP1. Give the "
            "set of classes itself, such as {nn.TransformerEncoderLayer}, or a function of name and module."
        )
    if not isinstance(wrap, type) and takes(wrap, 2):
        return wrap  # type: ignore[no-any-return]
    classes = tuple(wrap) if isinstance(wrap, Collection) else ()
    if not classes or not all(isinstance(one, type) and issubclass(one, nn.Module) for one in classes):
        raise MisconfigurationException(
            f"FSDPStrategy(wrap={wrap!r:.80}): expected a set of nn.Module classes, such as "
            "{nn.TransformerEncoderLayer}, or a function of name and module."
        )
    return lambda name, module: isinstance(module, classes)
