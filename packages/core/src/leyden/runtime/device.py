"""Which device a run uses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from leyden.errors import MisconfigurationException, did_you_mean

__all__ = ["choose_accelerator", "choose_devices", "root_device"]

_ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")
_STRATEGIES = ("ddp", "dp", "deepspeed", "fsdp", "horovod")  # beginnings of what 1.x took as an accelerator too


def choose_accelerator(name: object) -> str:
    """Return "cpu", "cuda" or "mps" for the Trainer's `accelerator`; "auto" takes the best that is there."""
    if not isinstance(name, str) or name not in _ACCELERATORS:
        hint = did_you_mean(name, _ACCELERATORS) if isinstance(name, str) else ""
        if isinstance(name, str) and name.startswith(_STRATEGIES):
            hint = f" How processes work together is the strategy: write strategy={name!r}."
        raise MisconfigurationException(
            f"Trainer(accelerator={name!r}): expected one of {', '.join(_ACCELERATORS)}.{hint}"
        )
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if name == "gpu" and (cuda or mps):
        return "cuda" if cuda else "mps"
    if (name in ("cuda", "gpu") and not cuda) or (name == "mps" and not mps):
        raise MisconfigurationException(
            f"Trainer(accelerator={name!r}): no such device is available to this torch ({torch.__version__}). Use "
            "accelerator='auto' or "
            "'cpu', or check the driver and that torch was installed with support for it."
        )
    return name


def choose_devices(devices: object, accelerator: str, processes: int | None = None) -> list[int]:
    """Return the device indices of this machine for the Trainer's `devices`, one for each of its processes.

    Args:
        devices: "auto", a count, -1 for all, "0,2" or indices. A CPU is as many devices as are asked for.
        processes: How many a launcher has started on this machine; None where there was none.
    """
    available = torch.cuda.device_count() if accelerator == "cuda" else 1
    if accelerator == "cpu" and processes is None and _count(devices) > (most := max(64, 8 * (os.cpu_count() or 1))):
        # Each is a whole Python with torch in it: a number with too many digits would bring the machine down.
        raise MisconfigurationException(
            f"Trainer(devices={devices!r}): expected at most {most} processes on this machine, which has "
            f"{os.cpu_count()} core(s). On a CPU each device is a process; start more by torchrun --nproc-per-node."
        )
    wanted = list(range(processes or 1)) if devices == "auto" else _parse_devices(devices, available)
    if not wanted or len(set(wanted)) != len(wanted):
        raise MisconfigurationException(f"Trainer(devices={devices!r}): expected at least one device, each once.")
    if processes is not None and len(wanted) != processes:
        raise MisconfigurationException(
            f"Trainer(devices={devices!r}), but the launcher started {processes} process(es) on this machine, which "
            "all Trainers of the script have. Leave devices out (evaluation in several processes doubles no sample), "
            f"or start as many: torchrun --nproc-per-node {len(wanted)}, srun --ntasks-per-node {len(wanted)}."
        )
    if accelerator == "cpu" and wanted != list(range(len(wanted))):
        raise MisconfigurationException(
            f"Trainer(devices={devices!r}): the CPU is one device, which any number of processes share; give that "
            "number, such as devices=2."
        )
    if accelerator != "cpu" and max(wanted) >= available:
        raise MisconfigurationException(
            f"Trainer(devices={devices!r}): this machine has {available} {accelerator} device(s), counted from 0, and "
            f"{len(wanted)} process(es) need one each."
        )
    return wanted


def root_device(accelerator: str, index: int) -> torch.device:
    """Return the torch device of one accelerator's device."""
    return torch.device("cuda", index) if accelerator == "cuda" else torch.device(accelerator)


def _parse_devices(devices: Any, available: int) -> list[int]:
    wanted = devices
    if isinstance(devices, str):
        try:
            parts = [int(part) for part in devices.split(",") if part.strip()]
        except ValueError:
            raise _unreadable(devices) from None
        wanted = parts if "," in devices or not parts else parts[0]
    if type(wanted) is int and (wanted == -1 or wanted >= 1):
        return list(range(available if wanted == -1 else wanted))
    if isinstance(wanted, Sequence) and all(type(index) is int and index >= 0 for index in wanted):
        return list(wanted)
    raise _unreadable(devices)


def _count(devices: object) -> int:
    """The number of devices where a number is given, be it in a string; 0 for anything else."""
    text = str(devices).strip()
    return int(text) if text.isdecimal() else 0


def _unreadable(devices: object) -> MisconfigurationException:
    return MisconfigurationException(
        f"Trainer(devices={devices!r}): expected 'auto', a number of devices >= 1, -1 for all, or indices as [0] or "
        "'0,'."
    )
