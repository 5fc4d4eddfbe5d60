"""Where processes meet: the store they have in common, and the groups of `torch.distributed` that are made there."""

from __future__ import annotations

import atexit
import importlib
import os
from collections import Counter
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from leyden.errors import MisconfigurationException, ProcessFailedError
from leyden.runtime.places import Place

__all__ = ["give_up", "join"]

_stores: dict[str, Any] = {}
"""By their addresses; one that this process serves has to outlive the groups that were made at it."""
_joined: Counter[str] = Counter()
"""How many groups have been made at each address: so that none reads what another has left in the store."""


class _Own:
    """The group that was made here, if any, and whether one of its processes has failed in it."""

    group: Any = None
    is_torn = False


_own = _Own()


def join(place: Place, backend: str, timeout: timedelta) -> None:
    """Meet the other processes, unless the group is there already: from an earlier run, or made by the script.

    One that was given up is left, which tells those who still wait in it; all meet in a new one. On CUDA devices it
    stays, since nccl leaves nothing while a collective waits.

    Raises:
        MisconfigurationException: the script's group is not that of `place`.
        ProcessFailedError: the others have not come in time.
    """
    if _is_there() and _own.is_torn and dist.get_backend() == "gloo":
        _leave_group()
    if dist.is_initialized():
        _check_group(place)
        return
    # Its functions keep the group that is there when they are defined, for good, and with it the connections.
    importlib.import_module("torch.distributed.nn.functional")
    rank, world_size = place.global_rank, place.world_size
    try:
        store = dist.HashStore() if world_size == 1 else _store_for(place, timeout)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    except dist.DistError as error:
        raise ProcessFailedError(
            f"Process {rank} of {world_size} has not met the others at {place.master_addr}:{place.master_port} within "
            f"{timeout}. All {world_size} must begin the same entry points, also those that have nothing to do there, "
            "with one MASTER_ADDR, one free MASTER_PORT, and a RANK of their own from 0 to "
            f"{world_size - 1}. Seen as: {error}"
        ) from error
    _own.group = dist.group.WORLD
    atexit.register(_leave)


def give_up() -> None:
    """Let the next run meet in a new group, as the processes of this one are no longer at the same place."""
    _own.is_torn = _is_there()


def _is_there() -> bool:
    return _own.group is not None and _own.group is dist.group.WORLD


def _leave_group() -> None:
    _own.group, _own.is_torn = None, False  # who refers to the group keeps its connections
    dist.destroy_process_group()


def _check_group(place: Place) -> None:
    if dist.get_world_size() != place.world_size or dist.get_rank() != place.global_rank:
        raise MisconfigurationException(
            f"The process group that was made before the Trainer has this as process {dist.get_rank()} of "
            f"{dist.get_world_size()}, the environment as {place.global_rank} of {place.world_size}. Leave out "
            "torch.distributed.init_process_group, or give it the numbers of the environment."
        )


def _store_for(place: Place, timeout: timedelta) -> Any:
    """Return a part of the store at the place's address that is the next group's own."""
    address = f"{place.master_addr}:{place.master_port}"
    if address not in _stores:
        _stores[address] = _open(place, timeout)
    _joined[address] += 1
    # The store of torchrun's agent outlives its processes: those of a restart must not read what the last ones left.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if _is_of_agent(place) else "0"
    return dist.PrefixStore(f"leyden/{attempt}/{_joined[address]}", _stores[address])  # type: ignore[attr-defined]


def _open(place: Place, timeout: timedelta) -> Any:
    if _is_of_agent(place):
        return dist.TCPStore(  # type: ignore[attr-defined]
            place.master_addr, place.master_port, place.world_size, is_master=False, timeout=timeout
        )
    url = f"tcp://{place.master_addr}:{place.master_port}" if place.launcher == "slurm" else "env://"
    return next(dist.rendezvous(url, place.global_rank, place.world_size, timeout=timeout))[0]  # type: ignore[attr-defined]


def _is_of_agent(place: Place) -> bool:
    """Whether torchrun's agent serves the store; on several machines torch itself tells its attempts apart."""
    return place.num_nodes == 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _leave() -> None:
    if dist.is_initialized():
        _leave_group()
    _stores.clear()
