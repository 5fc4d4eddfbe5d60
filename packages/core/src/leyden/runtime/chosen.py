"""What a run runs on: devices, processes, strategy and precision, chosen from what the Trainer was given."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from leyden.errors import MisconfigurationException
from leyden.hooks.attached import as_list
from leyden.runtime.batchnorm import check_sync_batchnorm
from leyden.runtime.choose import check_size, choose_strategy
from leyden.runtime.device import choose_accelerator, choose_devices, root_device
from leyden.runtime.forking import check_can_fork, is_forked
from leyden.runtime.launching import check_can_launch, end_with_launcher, launch_script
from leyden.runtime.places import Place, choose_num_nodes, place_of, warn_of_idle_tasks, warn_of_restarts
from leyden.runtime.precision import Precision, choose_precision
from leyden.runtime.strategy import Strategy

__all__ = ["Chosen", "choose_runtime"]


class Chosen(NamedTuple):
    """What a run runs on.

    Attributes:
        device_ids: the devices of this node.
        num_nodes: machines of the run.
        forks: whether an entry point runs in forks of this process, which are yet to come.
    """

    accelerator: str
    device_ids: list[int]
    num_nodes: int
    strategy: Strategy
    precision: Precision
    forks: bool


def choose_runtime(
    accelerator: str, strategy: Any, devices: Any, num_nodes: int, precision: Any, plugins: Any, sync_batchnorm: bool
) -> Chosen:
    """Return what the Trainer's arguments of these names come to in this process, and start the others of a script.

    Raises:
        MisconfigurationException: an argument that cannot work here, or beside another.
    """
    if plugins is not None:
        precision = _precision_in(plugins)
    forks = is_forked(strategy)
    accelerator = choose_accelerator(accelerator)
    place = place_of()
    device_ids = choose_devices(devices, accelerator, None if place is None else place.local_world_size)
    num_nodes = choose_num_nodes(num_nodes, place)
    chosen = choose_strategy(strategy, len(device_ids) if place is None else place.world_size)
    forks = forks and place is None and len(device_ids) > 1
    if forks:
        check_can_fork(f"Trainer(devices={devices!r}, strategy={strategy!r})", trains=False)
        processes = len(device_ids)
        place = Place(0, 0, 0, processes, processes, "leyden", "127.0.0.1", 0)  # until it forks
        chosen.is_torn = True
    elif place is None and len(device_ids) > 1:
        check_can_launch(f"Trainer(devices={devices!r})")
        launch_script(len(device_ids))
    elif place is None:
        warn_of_idle_tasks()
    elif place.launcher == "leyden" or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_launcher()
        warn_of_restarts()
    chosen.connect(root_device(accelerator, device_ids[0 if place is None else place.local_rank]), place)
    check_size(chosen, 1 if place is None else place.world_size)
    chosen.precision = choose_precision(precision, chosen.root_device.type)
    check_sync_batchnorm(sync_batchnorm, chosen)
    return Chosen(accelerator, device_ids, num_nodes, chosen, chosen.precision, forks)


def _precision_in(plugins: Any) -> Precision:
    given = as_list(plugins)
    if len(given) != 1 or not isinstance(given[0], Precision):
        raise MisconfigurationException(
            f"Trainer(plugins={plugins!r:.80}): expected one leyden.runtime.precision.Precision; choose among those "
            "there are by precision=."
        )
    return given[0]
