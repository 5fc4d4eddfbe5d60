"""Devices of machines that are not at hand: torch and the files of the kernel are the edge, and stand-ins here."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leyden.cli.doctor import devices
from leyden.cli.doctor.devices import examine_devices

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54\nGCC version: 12\n"


@pytest.fixture(name="machine", autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A machine without a GPU and without a container's limits."""
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(devices, "_GPUS", tmp_path / "gpus")
    monkeypatch.setattr(devices, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(devices, "_SHARED", tmp_path / "shm")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def with_gpus(count: int) -> None:
        (tmp_path / "version").write_text(DRIVER)
        for index in range(count):
            (tmp_path / "gpus" / str(index)).mkdir(parents=True)

    return with_gpus


def test_a_machine_with_processors_alone() -> None:
    section = examine_devices()
    assert [name for name, _ in section.facts] == ["cpu", "cuda", "mps"]
    assert dict(section.facts)["cuda"] == "none, torch is built without CUDA"
    assert (section.problems, section.notes) == ([], [])


def test_devices_that_torch_can_use(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(2)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    about = SimpleNamespace(name="H100", total_memory=85_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    section = examine_devices()
    assert section.facts[1:5] == [
        ("nvidia driver", "NVIDIA UNIX x86_64 Kernel Module  550.54"),
        ("cuda", "devices: 2, torch is built for CUDA 12.4"),
        ("  cuda:0", "H100, 85.0 GB"),
        ("  cuda:1", "H100, 85.0 GB"),
    ]
    assert (section.problems, section.notes) == ([], [])


def test_a_torch_without_cuda_beside_a_gpu(machine: Any) -> None:
    machine(1)
    (problem,) = examine_devices().problems
    assert problem.problem == (
        f"this machine has 1 NVIDIA GPU(s), and torch {torch.__version__} is built without CUDA."
    )
    assert "pytorch.org" in problem.fix


def test_a_driver_that_is_too_old(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_available() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system\nis too old.", stacklevel=1)
        return False

    machine(1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    (problem,) = examine_devices().problems
    assert problem.problem == (
        "this machine has 1 NVIDIA GPU(s), and torch can use none: CUDA initialization: The NVIDIA driver on your "
        "system is too old."
    )
    assert problem.fix == "Check `nvidia-smi`; a torch for CUDA 13.0 needs a driver as new."


def test_gpus_that_are_hidden_are_a_note(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(4)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    section = examine_devices()
    assert section.problems == []
    assert section.notes == ["CUDA_VISIBLE_DEVICES= hides 4 GPU(s) from this process."]


@pytest.mark.parametrize(("quota", "noted"), [("50000 100000", False), ("max 100000", False), ("", False)])
def test_a_containers_quota_of_cores(quota: str, noted: bool, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    section = examine_devices()
    assert section.facts[0][1].startswith("0.5 of ") is quota.startswith("50000")
    assert bool(section.notes) is noted


def test_more_threads_than_cores_are_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("200000 100000")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    (note,) = examine_devices().notes
    assert note.startswith("torch uses 64 threads on ")
    assert "set OMP_NUM_THREADS=" in note


def test_little_shared_memory_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shm").mkdir()
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_blocks=16384, f_frsize=4096))
    section = examine_devices()
    assert section.facts[-1] == ("shared memory", f"67.1 MB in {tmp_path / 'shm'}")
    assert section.notes[0].endswith("In Docker, --shm-size=2g gives it more.")
    assert section.problems == []
