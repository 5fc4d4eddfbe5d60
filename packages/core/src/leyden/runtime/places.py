"""Where this process stands among those of its run: what torchrun, SLURM or Leyden's own launcher say in variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn

__all__ = ["Place", "choose_num_nodes", "place_of", "warn_of_idle_tasks", "warn_of_restarts"]

LAUNCHED_VARIABLE = "LEYDEN_LAUNCHED"
"""Number of the process that is Leyden's own launcher, in the environment of the processes that it starts."""


@dataclass(frozen=True, slots=True)
class Place:
    """One process among `world_size`, counted from 0: over all machines, on its machine, and its machine.

    Attributes:
        launcher: who started it: "torchrun", "slurm" or "leyden".
        num_nodes: machines of the run.
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
    num_nodes: int = 1


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return the place that a launcher gave this process; None where there was none.

    Variables of torchrun go before those of SLURM, under which it may run. A shell that SLURM opened (``srun --pty``),
    and a script that is its only task, are no run of several processes: they count as none.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _of_torchrun(environment)
    if _tasks_of_step(environment) > 1 and not _is_interactive(environment):
        return _of_slurm(environment)
    _check_not_half_told(environment)
    return None


def warn_of_idle_tasks(environment: Mapping[str, str] = os.environ) -> None:
    """Warn where processes that belong together train alone: tasks of SLURM without ``srun``, those of ``mpirun``."""
    by_mpi = environment.get("OMPI_COMM_WORLD_SIZE", "")
    if by_mpi.isdigit() and int(by_mpi) > 1:
        rank_zero_warn(
            f"mpirun started {by_mpi} processes, of which each trains alone: its variables are not read. Start the "
            f"script by torchrun --nproc-per-node {by_mpi}."
        )
    tasks = environment.get("SLURM_NTASKS", "")
    if tasks.isdigit() and int(tasks) > 1 and "SLURM_STEP_ID" not in environment and not _is_interactive(environment):
        rank_zero_warn(
            f"SLURM was asked for {tasks} tasks, but this script is not started by srun and trains as one process. "
            "Write srun python script.py into the batch script."
        )


def warn_of_restarts(environment: Mapping[str, str] = os.environ) -> None:
    """Warn where processes would wait for each other for ever after a restart by torchrun on several machines.

    Its store is divided by the number of restarts (torch 2.13: ``/worker/attempt_N``), which the machine on which a
    process died counts, and the others do not.
    """
    several = int(environment.get("GROUP_WORLD_SIZE", "1")) > 1
    restarts = environment.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if several and restarts and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        rank_zero_warn(
            "torchrun was given --max-restarts on several machines: after a restart its processes may wait for each "
            "other for ever. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun."
        )


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


def _check_not_half_told(environment: Mapping[str, str]) -> None:
    """Refuse one of RANK and WORLD_SIZE alone: each process would train by itself, and write over the others' files."""
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if environment.get(name, "") not in ("", "0" if name == "RANK" else "1") and other not in environment:
            raise MisconfigurationException(
                f"{name}={environment[name]!r} is in the environment, but not {other}: expected both, as a launcher "
                f"sets them, or neither. Start the script by torchrun, or unset {name}."
            )


def _of_torchrun(environment: Mapping[str, str]) -> Place:
    rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    local_rank, local_size = _number(environment, "LOCAL_RANK", rank), _number(environment, "LOCAL_WORLD_SIZE", size)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if size > 1 and missing:
        raise MisconfigurationException(
            f"RANK={rank} and WORLD_SIZE={size} are in the environment, but not {' and '.join(missing)}, where the "
            "processes meet. Start the script by torchrun, or unset RANK and WORLD_SIZE."
        )
    return _checked(
        Place(
            rank, local_rank, _number(environment, "GROUP_RANK", rank // max(local_size, 1)), size, local_size,
            "leyden" if LAUNCHED_VARIABLE in environment else "torchrun",
            environment.get("MASTER_ADDR") or "127.0.0.1", _port(environment, 29500),
            _number(environment, "GROUP_WORLD_SIZE", size // max(local_size, 1)),
        )
    )  # fmt: skip


def _of_slurm(environment: Mapping[str, str]) -> Place:
    rank, size, node = (
        _number(environment, "SLURM_PROCID"), _tasks_of_step(environment), _number(environment, "SLURM_NODEID", 0)
    )  # fmt: skip
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", _number(environment, "SLURM_NNODES", 1))
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or ""
    of_nodes = tasks_per_node(tasks)
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST") or "127.0.0.1"
    # Steps of a job that run side by side meet at ports of their own.
    job, step = _number(environment, "SLURM_JOB_ID", 0), _number(environment, "SLURM_STEP_ID", 0)
    port = _port(environment, 15000 + (job + 7 * step) % 15000)
    local_size = of_nodes[node] if node < len(of_nodes) and sum(of_nodes) == size else size // nodes
    return _checked(
        Place(
            rank, _number(environment, "SLURM_LOCALID", rank % max(local_size, 1)), node, size, local_size, "slurm",
            environment.get("MASTER_ADDR") or first_host(hosts), port, nodes,
        )
    )  # fmt: skip


def first_host(nodes: str) -> str:
    """Return the first host of a SLURM list.

    Example:
        >>> first_host("gpu[007-010,12],cpu1"), first_host("a1,a2"), first_host("rack[3,5]-gpu[01-02]-ib")
        ('gpu007', 'a1', 'rack3-gpu01-ib')
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    assert first is not None
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def tasks_per_node(tasks: str) -> list[int]:
    """Return the number of tasks on each machine, from SLURM's short form.

    Example:
        >>> tasks_per_node("4(x2),3")
        [4, 4, 3]
    """
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks):
        counts += [int(count)] * int(times or 1)
    return counts


def _tasks_of_step(environment: Mapping[str, str]) -> int:
    """Tasks that were started side by side; 0 outside of srun. In a batch script SLURM_PROCID is set, too."""
    if "SLURM_PROCID" not in environment or "SLURM_STEP_ID" not in environment:
        return 0
    return _number(environment, "SLURM_STEP_NUM_TASKS", _number(environment, "SLURM_NTASKS", 0))


def _is_interactive(environment: Mapping[str, str]) -> bool:
    return "SLURM_PTY_PORT" in environment or environment.get("SLURM_JOB_NAME") in ("bash", "interactive")


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name)
    if value is None and default is not None:
        return default
    if value is None or not value.isdigit():
        own = "the variables of SLURM" if name.startswith("SLURM") else "RANK and WORLD_SIZE"
        raise MisconfigurationException(
            f"{name}={value!r} in the environment: expected a whole number, as a launcher sets it. Start the script by "
            f"torchrun, or unset {own}."
        )
    return int(value)


def _port(environment: Mapping[str, str], default: int) -> int:
    value = environment.get("MASTER_PORT") or str(default)
    if not value.isdigit() or not 0 < int(value) < 2**16:
        raise MisconfigurationException(
            f"MASTER_PORT={value!r} in the environment: expected a port from 1 to 65535, at which the processes meet. "
            "Set a free one, alike for all, or start the script by torchrun, which chooses one."
        )
    return int(value)


def _checked(place: Place) -> Place:
    if not (
        place.global_rank < place.world_size
        and place.local_rank < place.local_world_size <= place.world_size
        and place.node_rank < place.num_nodes
    ):
        raise MisconfigurationException(
            f"The launcher's variables contradict each other: process {place.global_rank} of {place.world_size}, "
            f"{place.local_rank} of {place.local_world_size} on its machine, machine {place.node_rank} of "
            f"{place.num_nodes}. Start the script by torchrun or srun, which set all of them."
        )
    return place
