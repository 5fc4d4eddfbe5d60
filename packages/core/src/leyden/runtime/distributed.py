"""What strategies of several processes share: the group, how processes agree, and how the data is dealt out."""

from __future__ import annotations

import atexit
import inspect
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.data.samplers import distributed_loader
from leyden.errors import MisconfigurationException, ProcessFailedError, SIGTERMException
from leyden.rank_zero import rank_zero_only
from leyden.runtime.agreement import Agreement
from leyden.runtime.places import Place
from leyden.runtime.strategy import Strategy

__all__ = ["DistributedStrategy", "in_place_of"]

_OPERATIONS = {
    "mean": dist.ReduceOp.SUM, "avg": dist.ReduceOp.SUM, "sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN,
    "max": dist.ReduceOp.MAX,
}  # fmt: skip


class DistributedStrategy(Strategy):
    """Processes of one group of `torch.distributed`, each with a device of its own.

    Args:
        timeout: How long a process waits for the others before it gives up.
        process_group_backend: "nccl", "gloo", …; by default nccl for CUDA devices and gloo for others.
    """

    _runs = 0
    """Entry points that the processes of this program have begun together, each under a name of its own."""

    def __init__(self, *, timeout: timedelta = timedelta(minutes=30), process_group_backend: str | None = None) -> None:
        super().__init__()
        if timeout <= timedelta(0):
            raise MisconfigurationException(
                f"{type(self).__name__}(timeout={timeout!r}): expected a timedelta above 0, such as "
                "timedelta(minutes=30)."
            )
        self.timeout, self.process_group_backend = timeout, process_group_backend
        self.place: Place | None = None
        self._agreement: Agreement | None = None
        self._is_torn = False  # by an error, after which the processes no longer are at the same place

    def connect(self, root_device: torch.device, place: Place | None) -> None:
        super().connect(root_device, place)
        self.place = place or Place(0, 0, 0, 1, 1, "leyden", "127.0.0.1", 0)
        self.global_rank, self.local_rank = self.place.global_rank, self.place.local_rank
        self.node_rank, self.world_size = self.place.node_rank, self.place.world_size
        rank_zero_only.rank = self.global_rank

    def begin(self, position: Callable[[], int], heard: Callable[[], None]) -> None:
        """Meet the other processes, unless the group is there already: from an earlier run, or made by the script."""
        if self.root_device.type == "cuda":
            torch.cuda.set_device(self.root_device)
        if dist.is_initialized():
            self._check_group()
        else:
            self._join()
        if self.world_size > 1:
            DistributedStrategy._runs += 1
            self._is_torn = False
            store: Any = dist.distributed_c10d._get_default_store()
            self._agreement = Agreement(
                store.clone(), str(self._runs), self.global_rank, self.world_size, position, heard
            )

    def _join(self) -> None:
        assert self.place is not None
        options: dict[str, Any] = {"rank": self.global_rank, "world_size": self.world_size, "timeout": self.timeout}
        if self.world_size == 1:
            options["store"] = dist.HashStore()  # type: ignore[attr-defined]
        elif self.place.launcher == "slurm":
            options["init_method"] = f"tcp://{self.place.master_addr}:{self.place.master_port}"
        backend = self.process_group_backend or ("nccl" if self.root_device.type == "cuda" else "gloo")
        dist.init_process_group(backend, **options)
        atexit.register(_leave)

    def _check_group(self) -> None:
        if dist.get_world_size() != self.world_size or dist.get_rank() != self.global_rank:
            raise MisconfigurationException(
                f"The process group that was made before the Trainer has this as process {dist.get_rank()} of "
                f"{dist.get_world_size()}, the environment as {self.global_rank} of {self.world_size}. Leave out "
                "torch.distributed.init_process_group, or give it the numbers of the environment."
            )

    def ask_to_stop(self) -> None:
        if self._agreement is not None:
            self._agreement.ask()

    def stops_behind(self, batches: int) -> bool:
        return self._agreement is None or self._agreement.stops_behind(batches)

    def explain(self, error: BaseException) -> BaseException:
        agreement = self._agreement
        self._is_torn = not isinstance(error, SIGTERMException)
        if agreement is None or isinstance(error, SIGTERMException):
            return error
        lost = _is_of_lost_peer(error)
        if lost and (failure := agreement.failure(within_s=5.0)):
            agreement.fail("")  # others know by now
            rank, text = failure
            other = ProcessFailedError(
                f"Process {rank} of {self.world_size} failed, so that process {self.global_rank} cannot go on. What "
                f"process {rank} raised:\n{text}"
            )
            other.__cause__ = error
            return other
        agreement.fail("".join(traceback.format_exception(error)))
        return error

    def teardown(self) -> None:
        if self._agreement is not None:
            self._agreement.close()
            self._agreement = None
            if not self._is_torn:
                self.barrier("teardown")  # the store is there until nobody looks into it
        super().teardown()

    # -- how processes agree ----------------------------------------------------------------------------------------

    def barrier(self, name: str | None = None) -> None:
        if self.root_device.type == "cuda":
            dist.barrier(device_ids=[self.root_device.index])
        else:
            dist.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        box = [obj]
        dist.broadcast_object_list(box, src, device=self.root_device)
        return box[0]

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        name = str(reduce_op or "sum").lower()
        if name not in _OPERATIONS:
            raise MisconfigurationException(
                f"strategy.reduce(reduce_op={reduce_op!r}): expected one of {', '.join(map(repr, _OPERATIONS))}."
            )
        reduced = tensor.clone()
        dist.all_reduce(reduced, _OPERATIONS[name], group)
        return reduced / dist.get_world_size(group) if name in ("mean", "avg") else reduced

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        vote = torch.tensor(int(decision), device=self.root_device)
        dist.all_reduce(vote, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX)
        return bool(vote)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        if sync_grads:
            from torch.distributed.nn.functional import all_gather

            return torch.stack(tuple(all_gather(tensor.contiguous(), group)))  # type: ignore[no-untyped-call]
        found = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(found, tensor.contiguous(), group)
        return torch.stack(found)

    def prepare_loader(self, loader: Any, stage: str) -> Any:
        return distributed_loader(loader, self.world_size, self.global_rank, stage)


def in_place_of(step: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call` as a function that says to take what `step` takes."""

    def run(*args: Any) -> Any:
        return call(*args)

    run.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    return run


def _is_of_lost_peer(error: BaseException) -> bool:
    """Whether `error` is what a collective raises when another process is gone or does not come."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
