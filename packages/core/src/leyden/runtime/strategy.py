"""The seam to more than one process: the loops call the strategy and never ask how many processes there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from leyden.runtime.meta import fill_meta
from leyden.runtime.shards import as_like

if TYPE_CHECKING:
    from leyden.runtime.places import Place
    from leyden.runtime.precision import Precision

__all__ = ["SingleDeviceStrategy", "Strategy"]


class Strategy:
    """Where a module runs, how a step reaches it and how processes agree. One process is the base case.

    Attributes:
        root_device: device of this process.
        no_grad_sync: makes the context for a backward whose gradients need not be synchronised yet; None where there is
            nothing to hold back.
        allows_inference_mode: whether evaluation may run under `torch.inference_mode` and not only `torch.no_grad`.
        precision: what the Trainer's `precision` says; set before any run.
        state_dict_type: how a checkpoint is kept where weights are ``DTensor`` of several processes: "full", one file
            that the first writes, or "sharded", a folder that all write.
        shards_weights: whether a process has a part of each weight only, as a ``DTensor``.
        is_torn: whether an error has separated the processes, which the run sets: from there on none waits for another.
    """

    no_grad_sync: Callable[[], AbstractContextManager[Any]] | None = None

    allows_inference_mode = True

    precision: Precision | None = None

    state_dict_type = "full"

    shards_weights = False

    is_torn = False

    def __init__(self, root_device: torch.device | None = None) -> None:
        self.root_device = torch.device("cpu") if root_device is None else root_device

    global_rank = local_rank = node_rank = 0
    world_size = 1

    def connect(self, root_device: torch.device, place: Place | None) -> None:
        """Take this process's device, and its place where a launcher gave it one; called once, by the Trainer."""
        self.root_device = root_device

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.global_rank == 0

    def setup_module(self, module: nn.Module) -> None:
        """Move the weights to the device, and make those that are on none yet."""
        fill_meta(module, self.root_device)
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

    def step_without_backward(self, module: nn.Module, name: str) -> Callable[..., Any]:
        """Return the step as `step_of` does, for a pass in which no loss goes backward and no process waits for one."""
        return self.step_of(module, name)

    def check_optimizers(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Refuse optimizers that could not step here; called with what the module has configured."""

    def evaluating(self, module: nn.Module, num_batches: Sequence[int | float]) -> AbstractContextManager[Any]:
        """Return the context of a pass without gradients over so many batches of each loader (``math.inf`` if unknown).

        Processes may have different numbers of them.
        """
        return nullcontext()

    def begin_epoch(self, num_batches: int | float) -> None:
        """Take note of what callbacks and the module have done as a training epoch began, or a run went on in one."""

    def watch_batches(self, has_more: Callable[[int], bool]) -> None:
        """Take note of how to learn, in any thread, whether this process has more than so many batches of the run."""

    def await_end_of_batches(self, batches: int, of_epoch: int) -> None:
        """Wait until all processes are behind so many batches of the run, and of the epoch, with which theirs end.

        Called where that was not known before: at the last batch of a loader without length, or behind what was the
        last batch of one that has fewer than it says.
        """

    def before_backward(self, loss: Tensor) -> None:
        """Prepare for a backward pass under manual optimisation, where a step may have several or none."""

    def left_out(self, module: nn.Module, window_open: bool) -> None:
        """Go through a batch without a backward, since ``training_step`` returned None.

        Where an accumulation window is open and ends here, average what `no_grad_sync` has held back.
        """

    def all_come(self, place: str) -> bool:
        """Whether all processes come to `place`, a name used once in a run; waits for them, but not for ever."""
        return True

    def skips_epoch(self, module: nn.Module, epoch: int) -> None:
        """Leave the epoch before a batch, since the module's ``on_train_batch_start`` returned -1."""

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

    def all_say(self, what: object, group: Any = None) -> bool:
        """Whether every process asks here, and says the same, by its repr; one that does something else may fail."""
        return True

    def gather(self, obj: Any) -> list[Any]:
        """Return every process's object in the first process, by rank; others get an empty list."""
        objects = [self.broadcast(obj, src=rank) for rank in range(self.world_size)]
        return objects if self.is_global_zero else []

    def group_beside(self) -> Any:
        """Return the processes as a group of torch.distributed for what goes on beside training; all call it."""
        return None

    def gradients(self, module: nn.Module) -> dict[str, Tensor]:
        """Return what there is of gradients, by parameter; what is not averaged yet is this process's own."""
        return {name: one.grad for name, one in module.named_parameters() if one.grad is not None}

    def set_gradients(self, module: nn.Module, gradients: Mapping[str, Tensor], window_open: bool) -> None:
        """Put back what `gradients` gave; in an open accumulation window they are whole and not averaged yet."""
        for name, parameter in module.named_parameters():
            if name in gradients:
                parameter.grad = as_like(gradients[name].to(parameter.device, parameter.dtype), parameter)

    def begin(
        self, position: Callable[[], tuple[float, float]], heard: Callable[[], None], heard_end: Callable[[], None]
    ) -> None:
        """Begin an entry point, together with the other processes, before any hook.

        `position` returns the number of batches done, and the number from which on processes may have different ones
        left; `heard` is to be called, in any thread, when another process was asked to stop,
        `heard_end` when one has asked for the end of training.
        """

    def check_alike(self, what: str, facts: Callable[[], dict[str, str]], expected: str) -> None:
        """Refuse processes that have different `facts`; `what` names these, and `expected` says what to do."""

    def ask_to_stop(self) -> None:
        """Ask all processes to stop behind the same batch; called in the handler of a signal."""

    def stops_behind(self, batches: float) -> bool:
        """Whether that is behind so many batches, of a process that was asked to stop."""
        return True

    def ends_behind(self, place: float) -> bool:
        """Whether all processes end training at this place, in batches done, of a process that has asked or heard."""
        return True

    def forget_end(self) -> None:
        """All processes go on instead, and may be asked again."""

    def any_asked(self, asked: bool) -> bool:
        """Whether this process or another was asked to stop; called by all at the same place."""
        return asked

    def explain(self, error: BaseException) -> BaseException:
        """Return what ends this process's run: `error`, or that another process failed, which has led to it."""
        return error

    def explain_between_runs(self, error: BaseException) -> BaseException:
        """Return `error`, or what says that another process did not take part in what has raised it."""
        return error

    def teardown(self) -> None:
        """Give up what `begin` and `setup_module` took; called last, also where these failed."""


class SingleDeviceStrategy(Strategy):
    """One process, one device."""
