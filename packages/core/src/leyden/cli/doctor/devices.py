"""What there is to compute with, and whether this torch can use it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from leyden.cli.doctor.section import Section
from leyden.cli.output import size

__all__ = ["examine_devices"]

_DRIVER = Path("/proc/driver/nvidia/version")
_GPUS = Path("/proc/driver/nvidia/gpus")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_SHARED = Path("/dev/shm")
_LITTLE_SHARED_BYTES = 128_000_000


def examine_devices() -> Section:
    """Look at processors, CUDA devices with their driver, and Apple's."""
    section = Section("Devices")
    _examine_cores(section)
    _examine_cuda(section)
    section.fact("mps", "available" if torch.backends.mps.is_available() else "none")
    if _SHARED.is_dir():
        _examine_shared_memory(section)
    return section


def _examine_cores(section: Section) -> None:
    usable, threads = _usable_cores(), torch.get_num_threads()
    section.fact("cpu", f"{usable:g} of {os.cpu_count()} cores usable, threads of torch: {threads}")
    if threads > max(usable, 1):
        section.note(
            f"torch uses {threads} threads on {usable:g} cores, where they wait for each other; set "
            f"OMP_NUM_THREADS={max(int(usable), 1)}."
        )


def _usable_cores() -> float:
    """Return the cores that this process may use: by its affinity, and by the quota of its container."""
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return min(usable, int(quota) / int(period))
    except (OSError, ValueError):  # no container, an older kernel, or "max", which is no quota
        return usable


def _examine_cuda(section: Section) -> None:
    built_for = torch.version.cuda
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    driver = _driver()
    if driver is not None:
        section.fact("nvidia driver", driver)
    section.fact("cuda", f"devices: {count}, torch is built for CUDA {built_for}" if built_for else _no_cuda())
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        section.fact(f"  cuda:{index}", f"{about.name}, {size(about.total_memory)}")
    gpus = len(list(_GPUS.iterdir())) if _GPUS.is_dir() else 0
    if count or not gpus:
        return
    if built_for is None and torch.version.hip is None:
        problem = f"this machine has {gpus} NVIDIA GPU(s), and torch {torch.__version__} is built without CUDA."
        section.trouble(problem, "Install a torch built for CUDA; https://pytorch.org/get-started says which.")
    elif os.environ.get("CUDA_VISIBLE_DEVICES", None) is not None:
        section.note(
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides {gpus} GPU(s) from this process."
        )
    else:
        cause = " ".join(str(caught[0].message).split()) if caught else "torch gives no reason."
        section.trouble(
            f"this machine has {gpus} NVIDIA GPU(s), and torch can use none: {cause}",
            f"Check `nvidia-smi`; a torch for CUDA {built_for} needs a driver as new.",
        )


def _driver() -> str | None:
    """Return what the driver of NVIDIA says of itself, in a line; None without one."""
    try:
        return _DRIVER.read_text(encoding="utf-8").splitlines()[0].removeprefix("NVRM version: ")
    except (OSError, IndexError):
        return None


def _no_cuda() -> str:
    return "none, torch is built without CUDA" + (f" for ROCm {torch.version.hip}" if torch.version.hip else "")


def _examine_shared_memory(section: Section) -> None:
    about = os.statvfs(_SHARED)
    whole = about.f_blocks * about.f_frsize
    section.fact("shared memory", f"{size(whole)} in {_SHARED}")
    if whole < _LITTLE_SHARED_BYTES:
        section.note(
            f"{_SHARED} has {size(whole)}: DataLoader(num_workers=...) hands batches through it and may die with a bus "
            "error. In Docker, --shm-size=2g gives it more."
        )
