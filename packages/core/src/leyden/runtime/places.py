"""Where this process stands among those of its run: what torchrun, SLURM or Leyden's own launcher say in variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from leyden.errors import MisconfigurationException

__all__ = ["Place", "choose_num_nodes", "place_of"]

LAUNCHED_VARIABLE = "LEYDEN_LAUNCHED"
"""Set by Leyden's own launcher, in the environment of the processes that it starts."""


@dataclass(frozen=True, slots=True)
class Place:
    """One process among `world_size`, counted from 0: over all machines, on its machine, and its machine.

    Attributes:
        launcher: who started it: "torchrun", "slurm" or "leyden".
        master_addr: host of the store at which the processes meet.
        master_port: its port.

    Example:
        >>> place_of(
        ...     {
        ...         "RANK": "3",
        ...         "LOCAL_RANK": "1",
        ...         "WORLD_SIZE": "4",
        ...         "LOCAL_WORLD_SIZE": "2",
        ...         "GROUP_RANK": "1",
        ...         "MASTER_ADDR": "node0",
        ...         "MASTER_PORT": "29500",
        ...     }
        ... ).node_rank
        1
    """

    global_rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    launcher: str
    master_addr: str
    master_port: int

    @property
    def num_nodes(self) -> int:
        """Machines of the run, each with as many processes."""
        return self.world_size // self.local_world_size


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return the place that a launcher gave this process; None where there was none.

    An interactive session of SLURM (``srun --pty``, ``salloc``) starts no run, and counts as none.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment and not _is_interactive(environment):
        return _of_slurm(environment)
    return None


def choose_num_nodes(given: object, place: Place | None) -> int:
    """Return the number of machines for the Trainer's `num_nodes`, which a launcher knows better."""
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise MisconfigurationException(f"Trainer(num_nodes={given!r}): expected an int >= 1.")
    if place is not None:
        if given not in (1, place.num_nodes):
            raise MisconfigurationException(
                f"Trainer(num_nodes={given}), but {place.launcher} started processes on {place.num_nodes} machine(s). "
                f"Leave num_nodes out, or start it so: torchrun --nnodes {given}."
            )
        return place.num_nodes
    if given > 1:
        raise MisconfigurationException(
            f"Trainer(num_nodes={given}): a script starts no processes on other machines. Start it on each by "
            f"torchrun --nnodes {given} --nproc-per-node N --rdzv-backend c10d --rdzv-endpoint HOST:PORT script.py, or "
            "by srun."
        )
    return 1


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    local_rank, local_size = _number(environment, "LOCAL_RANK", rank), _number(environment, "LOCAL_WORLD_SIZE", size)
    return _checked(
        Place(
            rank, local_rank, _number(environment, "GROUP_RANK", rank // local_size), size, local_size,
            "leyden" if LAUNCHED_VARIABLE in environment else "torchrun",
            environment.get("MASTER_ADDR", "127.0.0.1"), _number(environment, "MASTER_PORT", 29500),
        )
    )  # fmt: skip


def _of_slurm(environment: Mapping[str, str]) -> Place:
    rank, size = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_NTASKS")
    nodes = _number(environment, "SLURM_NNODES", 1)
    port = environment.get("MASTER_PORT") or str(15000 + _number(environment, "SLURM_JOB_ID", 0) % 5000)
    return _checked(
        Place(
            rank, _number(environment, "SLURM_LOCALID", rank % (size // nodes)),
            _number(environment, "SLURM_NODEID", 0), size, size // nodes, "slurm",
            environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_NODELIST", "127.0.0.1")), int(port),
        )
    )  # fmt: skip


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM list.

    Example:
        >>> first_host("gpu[007-010,12],cpu1"), first_host("a1,a2")
        ('gpu007', 'a1')
    """
    name, bracket, rest = nodes.partition("[")
    if not bracket or "," in name:
        return name.split(",")[0]
    return name + rest.partition("]")[0].split(",")[0].split("-")[0]


def _is_interactive(environment: Mapping[str, str]) -> bool:
    return environment.get("SLURM_JOB_NAME") in ("bash", "interactive") or "SLURM_STEP_ID" not in environment


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name)
    if value is None and default is not None:
        return default
    if value is None or not value.isdigit():
        raise MisconfigurationException(
            f"{name}={value!r} in the environment: expected a whole number, as a launcher sets it. Start the script by "
            "torchrun, or unset the variables RANK and WORLD_SIZE."
        )
    return int(value)


def _checked(place: Place) -> Place:
    if not (place.global_rank < place.world_size and place.local_rank < place.local_world_size):
        raise MisconfigurationException(
            f"The launcher's variables contradict each other: process {place.global_rank} of {place.world_size}, "
            f"{place.local_rank} of {place.local_world_size} on its machine. Start the script by torchrun."
        )
    return place
