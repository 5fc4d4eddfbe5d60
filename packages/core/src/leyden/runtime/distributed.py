"""What strategies of several processes share: the group, how processes agree, and how the data is dealt out."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leyden.arguments import check_arguments, is_name
from leyden.data.samplers import distributed_loader
from leyden.errors import MisconfigurationException, ProcessFailedError, SIGTERMException
from leyden.logging.exchange import exchange, header_of
from leyden.rank_zero import rank_zero_only
from leyden.runtime.agreement import Agreement
from leyden.runtime.collectives import gather, gather_with_gradients, saved_buffers, share_from_first
from leyden.runtime.facts import first_differing, told_apart, wait_until
from leyden.runtime.meeting import give_up, join
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

    patience_s = 60.0
    """How long a process that leaves a batch out, or whose callback fails, waits for the others to do so."""

    _shares_buffers = True

    _runs = 0
    """Entry points that the processes of this program have begun together, each under a name of its own."""
    _last_vote: Tensor | None = None
    """A view of what the processes voted with last, which keeps that from C++."""

    def __init__(self, *, timeout: timedelta = timedelta(minutes=30), process_group_backend: str | None = None) -> None:
        super().__init__()
        backend = process_group_backend
        check_arguments(
            type(self).__name__,
            (
                "timeout", timeout, _is_positive(timeout),
                "a timedelta above 0, such as timedelta(minutes=30)",
            ),
            (
                "process_group_backend", backend, backend is None or (is_name(backend) and _is_backend(backend)),
                "'nccl', 'gloo', … or None",
            ),
        )  # fmt: skip
        self.timeout, self.process_group_backend = timeout, process_group_backend
        self.place: Place | None = None
        self._agreement: Agreement | None = None
        self._beside: Any = None
        self._stops_together = False

    def connect(self, root_device: torch.device, place: Place | None) -> None:
        super().connect(root_device, place)
        if self.process_group_backend == "nccl" and root_device.type != "cuda":
            raise MisconfigurationException(
                f"{type(self).__name__}(process_group_backend='nccl') sends what is on CUDA devices, and this run is "
                f"on {root_device.type!r}. Leave it out, or write Trainer(accelerator='gpu')."
            )
        self.place = place or Place(0, 0, 0, 1, 1, "leyden", "127.0.0.1", 0)
        self.global_rank, self.local_rank = self.place.global_rank, self.place.local_rank
        self.node_rank, self.world_size = self.place.node_rank, self.place.world_size
        rank_zero_only.rank = self.global_rank

    def begin(
        self, position: Callable[[], tuple[float, float]], heard: Callable[[], None], heard_end: Callable[[], None]
    ) -> None:
        """Meet the other processes, in the group of an earlier run, the script's, or a new one."""
        if self.root_device.type == "cuda":
            torch.cuda.set_device(self.root_device)
        self._meet()
        if self.world_size > 1:
            DistributedStrategy._runs += 1
            self._stops_together = False
            self._heard, self._position = heard, position
            store: Any = dist.distributed_c10d._get_default_store()
            self._agreement = Agreement(
                store.clone(), str(self._runs), self.global_rank, self.world_size, position, heard, heard_end
            )

    def _meet(self) -> None:
        assert self.place is not None
        join(self.place, self.process_group_backend or self._default_backend(), self.timeout)

    def _default_backend(self) -> str:
        return "nccl" if self.root_device.type == "cuda" else "gloo"

    def check_alike(self, what: str, facts: Callable[[], dict[str, str]], expected: str) -> None:
        agreement = self._agreement
        if agreement is None:
            return

        def give_up(time_is_up: bool) -> None:
            if (other := agreement.failure()) is not None:
                raise other
            if time_is_up:
                raise ProcessFailedError(
                    f"Process {self.global_rank} of {self.world_size} has waited {self.timeout} for all to compare "
                    f"{what}: another one has not come. {expected}"
                )

        store: Any = dist.distributed_c10d._get_default_store()  # no clone: each connection costs a name look-up
        wait = partial(wait_until, world_size=self.world_size, timeout_s=self.timeout.total_seconds(), give_up=give_up)
        name = f"leyden/{DistributedStrategy._runs}/alike/{what}"
        found = first_differing(store, name, self.global_rank, self.world_size, facts(), wait)
        if found is not None:
            raise MisconfigurationException(
                f"The {self.world_size} processes do not have {what} alike: {told_apart(*found)}. {expected}"
            )

    def ask_to_stop(self) -> None:
        if self._agreement is not None:
            self._agreement.ask()

    def stops_behind(self, batches: float) -> bool:
        if self._agreement is not None:
            self._stops_together = self._agreement.stops_behind(batches)
            return self._stops_together
        return True

    def ends_behind(self, place: float) -> bool:
        return self._agreement is None or self._agreement.ends_behind(place)

    def forget_end(self) -> None:
        if self._agreement is not None:
            self._agreement.forget_end()

    def any_asked(self, asked: bool) -> bool:
        self._stops_together = self.reduce_boolean_decision(asked, all=False)
        return self._stops_together

    def explain(self, error: BaseException) -> BaseException:
        agreement = self._agreement
        if isinstance(error, SIGTERMException) and self._stops_together:
            self.is_torn = False
            return error
        self.is_torn, self._beside = True, None
        if agreement is None:
            return error
        lost = _is_of_lost_peer(error)
        if isinstance(error, ProcessFailedError):
            agreement.await_traceback()
            agreement.fail(str(error))  # others know by now
        elif not lost:
            record(error)
            agreement.fail("".join(traceback.format_exception(error)))
        elif other := agreement.failure(within_s=2.0):
            agreement.fail(str(other))
            return other
        else:
            other = ProcessFailedError(
                f"Process {self.global_rank} of {self.world_size} cannot go on: another one is gone and has not said "
                f"why. The system may have ended it, as it does where memory is full. Seen as: {error}"
            )
            agreement.fail(str(other))
            return other
        return error

    def explain_between_runs(self, error: BaseException) -> BaseException:
        if not _is_of_lost_peer(error):
            return error
        return ProcessFailedError(
            f"Process {self.global_rank} of {self.world_size} waited for others that have ended, or do something else: "
            "save_checkpoint and the like are for all processes together, also between runs and behind the last one. "
            f"Seen as: {error}"
        )

    def teardown(self) -> None:
        try:
            if self._agreement is not None and not self.is_torn and self.any_asked(self._agreement.is_asked):
                self._heard()  # in a process that was not asked itself, as late as this
        except Exception as error:
            raise self.explain(error) from None
        finally:
            if self._agreement is not None:
                self._agreement.close()  # after all are here: the store is there until nobody looks into it
                self._agreement = None
                if self.is_torn:
                    give_up()
            super().teardown()

    # -- training together ------------------------------------------------------------------------------------------

    def begin_epoch(self, num_batches: int | float) -> None:
        """Refuse an epoch in which some processes would wait for others that have no batch left."""
        if self.world_size == 1:
            return
        counts = torch.tensor([num_batches, -num_batches], dtype=torch.float64, device=self.root_device)
        dist.all_reduce(counts, dist.ReduceOp.MAX)
        most, fewest = counts.tolist()
        if most != -fewest:
            raise MisconfigurationException(
                f"Process {self.global_rank} has {num_batches} training batches in this epoch, others from "
                f"{-fewest:.0f} to {most:.0f}: who has fewer would leave the others waiting. Let "
                "Trainer(use_distributed_sampler=True) deal a DataLoader's samples out, or set "
                f"limit_train_batches={-fewest:.0f}."
            )

    def watch_batches(self, has_more: Callable[[int], bool]) -> None:
        if self._agreement is not None:
            self._agreement.running_out.has_more = has_more

    def await_end_of_batches(self, batches: int, of_epoch: int) -> None:
        """Refuse an epoch that ends earlier in some processes, when it does."""
        if self._agreement is not None:
            self._agreement.running_out.await_others(batches, of_epoch, self.timeout.total_seconds())

    def left_out(self, module: nn.Module, window_open: bool) -> None:
        """Go on if all processes leave this batch out; one that does so alone is waited for by the others."""
        if self._agreement is None:
            return
        done, _ = self._position()
        if not self._agreement.meet(f"left out/{done}", self.patience_s):
            raise MisconfigurationException(
                f"{type(module).__name__}.training_step returned None in process {self.global_rank} and not in others, "
                "which wait for its gradients. Return None in all processes or in none: return a loss of zero that "
                "comes from the weights, such as 0.0 * self(batch).sum()."
            )

    def all_come(self, place: str) -> bool:
        return self._agreement is None or self.is_torn or self._agreement.meet(place, self.patience_s)

    def skips_epoch(self, module: nn.Module, epoch: int) -> None:
        """Go on if all processes skip the rest of the epoch; one that does so alone is waited for by the others."""
        if self._agreement is None:
            return
        done, _ = self._position()
        if not self._agreement.meet(f"skipped/{epoch}/{done}", self.patience_s):
            raise MisconfigurationException(
                f"{type(module).__name__}.on_train_batch_start returned -1 in process {self.global_rank} and not in "
                f"others, behind {done:.0f} batches: they go on with the epoch, and wait for this one. Return -1 in "
                "all processes or in none: decide on what all have, such as batch_idx or a value that is reduced."
            )

    # -- how processes agree: after an error nobody waits for another, and each has its own --------------------------

    def barrier(self, name: str | None = None) -> None:
        if self.is_torn or self.world_size == 1:
            return
        self._meet()  # a script may call this before its first run
        if self.root_device.type == "cuda":
            dist.barrier(device_ids=[self.root_device.index])
        else:
            dist.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        if self.is_torn or self.world_size == 1:
            return obj
        self._meet()
        box = [obj]
        dist.broadcast_object_list(box, src, device=self.root_device)
        return box[0]

    def gather(self, obj: Any) -> list[Any]:
        if self.is_torn:
            return [obj]
        box: list[Any] = [None] * self.world_size if self.is_global_zero else []
        dist.gather_object(obj, box or None, dst=0)
        return box

    def group_beside(self) -> Any:
        if self._beside not in dist.distributed_c10d._world.pg_map:  # none yet, or one that went with a group given up
            self._beside = dist.new_group(timeout=self.timeout, backend="gloo")
        return self._beside

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        if not isinstance(tensor, Tensor) or self.is_torn:
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
        if self.is_torn:
            return decision
        vote = torch.tensor(int(decision), device=self.root_device)
        dist.all_reduce(vote, dist.ReduceOp.MIN if all else dist.ReduceOp.MAX)
        # A run ends with a vote, and gloo's thread may hold the tensor for a moment more. Were it the last but Python
        # to do so, it would need the interpreter, which may have ended by then: the process would be aborted.
        DistributedStrategy._last_vote = vote.view(1)
        return bool(vote)

    def all_say(self, what: object, group: Any = None) -> bool:
        # The first message of metrics, as that is what a process sends that has come to the end of an evaluation.
        return exchange(self, group, [], header_of(what)) is not None

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return gather_with_gradients(tensor, group) if sync_grads else gather(tensor, group)

    @contextlib.contextmanager
    def evaluating(self, module: nn.Module, num_batches: Sequence[int | float]) -> Iterator[None]:
        """Let all processes evaluate with the buffers of process 0, which are those that are saved."""
        if self.world_size > 1 and self._shares_buffers:
            share_from_first(saved_buffers(module))
        yield

    def prepare_loader(self, loader: Any, stage: str) -> Any:
        return distributed_loader(loader, self.world_size, self.global_rank, stage)


def _is_positive(time: object) -> bool:
    return isinstance(time, timedelta) and time > timedelta(0)


def _is_backend(name: str) -> bool:
    """Whether torch knows it, as it does those of others that are imported: "gloo", or one for each kind of device."""
    return all(part.rpartition(":")[2].lower() in dist.Backend.backend_list for part in name.split(","))


def record(error: BaseException) -> None:
    """Write `error` into the file that torch's launcher reads as what was wrong first."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)


def in_place_of(step: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call` as a function that says to take what `step` takes."""

    def run(*args: Any) -> Any:
        return call(*args)

    run.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    return run


def _is_of_lost_peer(error: BaseException) -> bool:
    """Whether `error` is what a collective raises when another process is gone or does not come."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
