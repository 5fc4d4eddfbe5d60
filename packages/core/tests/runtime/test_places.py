"""Where a launcher's variables put a process: torchrun's, SLURM's, and those that contradict each other."""

from __future__ import annotations

import warnings
from dataclasses import astuple
from typing import Any

import pytest
import torch

from leyden import MisconfigurationException, Trainer, rank_zero_only
from leyden.runtime.places import (
    choose_num_nodes,
    first_host,
    place_of,
    tasks_per_node,
    warn_of_idle_tasks,
    warn_of_restarts,
)

TORCHRUN = {
    "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2", "MASTER_ADDR": "node0", "MASTER_PORT": "29400",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_NNODES": "2", "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[007-008]", "SLURM_NODELIST": "gpu[005-008]", "SLURM_JOB_ID": "40123",
    "SLURM_JOB_NAME": "digits",
}  # fmt: skip


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def test_torchrun_is_taken_as_it_is() -> None:
    place = place_of(TORCHRUN)
    assert place is not None
    assert astuple(place) == (5, 1, 1, 8, 4, "torchrun", "node0", 29400, 2)


def test_what_torchrun_may_leave_out() -> None:
    place = place_of({"RANK": "0", "WORLD_SIZE": "1"})
    assert place is not None
    assert astuple(place) == (0, 0, 0, 1, 1, "torchrun", "127.0.0.1", 29500, 1)


def test_leydens_own_launcher_is_told_from_torchrun() -> None:
    place = place_of({**TORCHRUN, "LEYDEN_LAUNCHED": "1"})
    assert place is not None
    assert place.launcher == "leyden"


def test_machines_may_have_different_numbers_of_processes() -> None:
    torchrun = place_of({**TORCHRUN, "RANK": "6", "LOCAL_RANK": "1", "WORLD_SIZE": "7", "LOCAL_WORLD_SIZE": "2"})
    slurm = place_of(
        {
            **SRUN, "SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_STEP_NUM_TASKS": "7",
            "SLURM_STEP_TASKS_PER_NODE": "4,3",
        }
    )  # fmt: skip
    assert torchrun is not None
    assert slurm is not None
    assert (torchrun.num_nodes, torchrun.local_world_size) == (2, 2)
    assert (slurm.num_nodes, slurm.local_world_size) == (2, 3)


def test_srun_is_taken_as_it_is_and_its_processes_meet_on_the_steps_first_machine() -> None:
    place = place_of(SRUN)
    assert place is not None
    assert astuple(place) == (5, 1, 1, 8, 4, "slurm", "gpu007", 15000 + 40123 % 15000, 2)
    named = place_of({**SRUN, "MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "4000"})
    assert named is not None
    assert (named.master_addr, named.master_port) == ("10.0.0.7", 4000)


def test_an_older_slurm_tells_less() -> None:
    older = without(SRUN, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_STEP_TASKS_PER_NODE", "SLURM_LOCALID")
    place = place_of(without(older, "SLURM_STEP_NODELIST"))
    assert place is not None
    assert astuple(place)[:7] == (5, 1, 1, 8, 4, "slurm", "gpu005")


def test_steps_of_a_job_meet_at_different_ports() -> None:
    first, second = place_of(SRUN), place_of({**SRUN, "SLURM_STEP_ID": "1"})
    assert first is not None
    assert second is not None
    assert first.master_port != second.master_port


def test_torchrun_within_srun_is_torchrun() -> None:
    place = place_of({**SRUN, **TORCHRUN})
    assert place is not None
    assert place.launcher == "torchrun"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0"},
        {"LOCAL_RANK": "0", "WORLD_SIZE": "1"},
        {**SRUN, "SLURM_PTY_PORT": "37421"},
        {**SRUN, "SLURM_JOB_NAME": "bash"},
        {**SRUN, "SLURM_JOB_NAME": "interactive"},
        without(SRUN, "SLURM_STEP_ID"),
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1"},
    ],
    ids=["nothing", "rank 0", "a size of 1", "srun --pty", "bash", "interactive", "sbatch without srun", "one task"],
)
def test_what_is_no_run_of_several_processes(environment: dict[str, str]) -> None:
    assert place_of(environment) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({**TORCHRUN, "RANK": "eight"}, "RANK='eight' in the environment: expected a whole number"),
        ({**TORCHRUN, "RANK": "8"}, "contradict each other: process 8 of 8"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "contradict each other: .*4 of 4 on its machine"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, "contradict each other"),
        ({**TORCHRUN, "GROUP_RANK": "2"}, "machine 2 of 2"),
        (without(TORCHRUN, "MASTER_ADDR", "MASTER_PORT"), "but not MASTER_ADDR and MASTER_PORT.*Start the script by"),
        ({**SRUN, "SLURM_PROCID": ""}, "SLURM_PROCID='' in the environment.*unset the variables of SLURM"),
        ({**SRUN, "SLURM_NODEID": "5"}, "machine 5 of 2"),
        ({"RANK": "1"}, "RANK='1' is in the environment, but not WORLD_SIZE: expected both.*unset RANK"),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "WORLD_SIZE='2' is in the environment, but not RANK"),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "but not MASTER_ADDR"),
        ({**TORCHRUN, "MASTER_PORT": "99999"}, "MASTER_PORT='99999' in the environment: expected a port from 1 to"),
        ({**SRUN, "MASTER_PORT": "abc"}, "MASTER_PORT='abc' in the environment: expected a port.*Set a free one"),
    ],
)
def test_contradictions_are_errors(environment: dict[str, str], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        place_of(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("a1,b[2-3]", "a1"),
        ("gpu[007-010,12],cpu1", "gpu007"),
        ("gpu[12,14]", "gpu12"),
        ("a-b[1-2]", "a-b1"),
        ("rack[3,5]-gpu[01-02]-ib,x", "rack3-gpu01-ib"),
    ],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_tasks_in_short() -> None:
    assert [tasks_per_node(one) for one in ("4", "2,1", "4(x3)", "4(x2),3,1(x2)", "")] == [
        [4], [2, 1], [4, 4, 4], [4, 4, 3, 1, 1], [],
    ]  # fmt: skip


def test_slurm_tasks_that_no_srun_starts_are_told_of() -> None:
    with pytest.warns(UserWarning, match="asked for 8 tasks, but this script is not started by srun"):
        warn_of_idle_tasks(without(SRUN, "SLURM_STEP_ID"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for environment in (
            {}, SRUN, {**without(SRUN, "SLURM_STEP_ID"), "SLURM_NTASKS": "1"},
            {**without(SRUN, "SLURM_STEP_ID"), "SLURM_JOB_NAME": "bash"},
        ):  # fmt: skip
            warn_of_idle_tasks(environment)


def test_processes_of_mpirun_are_told_that_each_trains_alone() -> None:
    with pytest.warns(UserWarning, match="mpirun started 4 processes, of which each trains alone.*by torchrun --nproc"):
        warn_of_idle_tasks({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_idle_tasks({"OMPI_COMM_WORLD_SIZE": "1"})


def test_restarts_after_which_processes_never_meet_are_told_of() -> None:
    restarts = {**TORCHRUN, "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with pytest.warns(UserWarning, match="Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun"):
        warn_of_restarts(restarts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for other in (
            {"TORCHELASTIC_MAX_RESTARTS": "0"}, {"TORCHELASTIC_USE_AGENT_STORE": "False"}, {"GROUP_WORLD_SIZE": "1"},
        ):  # fmt: skip
            warn_of_restarts({**restarts, **other})


def test_the_launcher_knows_the_number_of_machines() -> None:
    place = place_of(TORCHRUN)
    assert [choose_num_nodes(given, place) for given in (1, 2)] == [2, 2]
    with pytest.raises(MisconfigurationException, match=r"num_nodes=3\), but torchrun started processes on 2 machine"):
        choose_num_nodes(3, place)
    with pytest.raises(MisconfigurationException, match=r"a script starts no processes on other machines.*srun"):
        choose_num_nodes(2, None)
    for wrong in (0, True, "2", 1.0):
        with pytest.raises(MisconfigurationException, match="expected an int >= 1"):
            choose_num_nodes(wrong, None)


def test_a_trainer_is_where_the_launcher_put_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 0)  # and put back
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "discover_callbacks": False}
    trainer = Trainer(**quiet)
    assert (trainer.global_rank, trainer.local_rank, trainer.node_rank) == (5, 1, 1)
    assert (trainer.world_size, trainer.num_devices, trainer.num_nodes, trainer.is_global_zero) == (8, 4, 2, False)
    assert trainer.strategy.root_device == torch.device("cpu")
    assert Trainer(devices=4, num_nodes=2, **quiet).world_size == 8
    with pytest.raises(MisconfigurationException, match=r"devices=1\), but the launcher started 4 process.*doubles no"):
        Trainer(devices=1, **quiet)
    with pytest.raises(MisconfigurationException, match="is for one process, and there are 8"):
        Trainer(strategy="single_device", **quiet)
