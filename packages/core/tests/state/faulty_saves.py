"""Run as a program: saves that the kernel refuses, that are killed or just watched; it prints what became of them.

A process of its own, because it forks, is killed, and gives up rights. Every fork dies or exits within the save.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from file_operations import Operations, lost_in_a_power_cut  # type: ignore[import-not-found]  # beside this program

from leyden.state import storage
from leyden.state.temporaries import make_temporary

OLD = {"old": torch.arange(300.0)}
NEW = {"new": torch.arange(500.0), "large": torch.ones(50_000)}
TARGET = "folder/a.ckpt"
SAVES: dict[str, Callable[[], None]] = {
    "old": lambda: storage.save(NEW, TARGET),
    "nothing": lambda: storage.save(NEW, TARGET),
    "copy": lambda: storage.save(NEW, TARGET, "source/new.ckpt"),
    "link": lambda: storage.link("source/new.ckpt", TARGET),
}
"""How a save may go on, by what is there before it."""


def in_fork(action: Callable[[int], object]) -> tuple[int, str]:
    """Return the exit status of a fork that did this, and what it wrote to the descriptor it was given."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action(writes)
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as output:
        said = output.read()
    return os.waitpid(child, 0)[1], said


def held() -> str:
    """Which checkpoint the target holds; reading it compares its checksums."""
    if not os.path.exists(TARGET):
        return "nothing"
    loaded = storage.load(TARGET)
    for name, expected in (("old", OLD), ("new", NEW)):
        if repr(loaded) == repr(expected):
            return name
    return "another"


def kills(how: str) -> list[list[str]]:
    """Kill a save at its first, second, … operation until one survives; tell the operation and what is then there."""
    seen: list[list[str]] = []
    before, save = how != "nothing", SAVES[how]
    storage.save(NEW, "source/new.ckpt")
    for after_half in (False, True) if before else (False,):
        for at in range(1, 10_000):
            if before:
                storage.save(OLD, TARGET)

            def killed(log: int, at: int = at, after_half: bool = after_half) -> None:
                Operations(at, after_half, log)
                save()

            status, operation = in_fork(killed)
            seen.append([operation, held()])
            left = len(os.listdir("folder")) if os.path.isdir("folder") else 0
            storage.save(OLD, TARGET)
            seen[-1].append(str(max(left - 1, 0)) + "->" + str(len(os.listdir("folder")) - 1))
            if not before:
                os.remove(TARGET)
                os.rmdir("folder")
            if not os.WIFSIGNALED(status):
                break
    return seen


def told(how: str) -> dict[str, Any]:
    """What a save does, in order, and what of it a power cut could undo."""
    storage.save(NEW, "source/new.ckpt")
    if how != "nothing":
        storage.save(OLD, TARGET)
    seen = Operations()
    SAVES[how]()
    return {
        "operations": [[name, os.path.relpath(path or "."), second] for name, path, second in seen.told],
        "others": seen.others,
        "lost": lost_in_a_power_cut(seen.told),
    }


def refused(limit: Callable[[], object], target: str = TARGET) -> str:
    """What a save says in a process that has this limit set."""

    def save(log: int) -> None:
        limit()
        try:
            storage.save(NEW, target)
        except storage.CheckpointWriteError as error:
            os.write(log, f"{error.errno} {error}".encode())

    return in_fork(save)[1]


def limits() -> dict[str, Any]:
    storage.save(NEW, TARGET)
    whole = os.path.getsize(TARGET)
    storage.save(OLD, TARGET)

    def size_of_files(count: int) -> Callable[[], object]:
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))

    def read_only() -> None:
        os.chmod("folder", 0o555)
        if os.geteuid() == 0:  # who may write everywhere
            os.setuid(65534)

    for above in ("folder", "."):
        os.chmod(above, 0o755)
    said = {str(count): refused(size_of_files(count)) for count in (0, 1, 100, whole // 2, whole - 1, whole)}
    after = held() if said.pop(str(whole)) == "" else "refused"
    storage.save(OLD, TARGET)
    unwritable = refused(read_only)
    os.chmod("folder", 0o755)
    return {"whole": whole, "cut": said, "not cut": after, "unwritable": unwritable, "left": os.listdir("folder")}


def living() -> list[int]:
    """How many files there are while another process writes one there, and after it was killed."""
    storage.save(OLD, TARGET)
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        from pathlib import Path

        make_temporary(Path(TARGET))
        os.write(writes, b".")
        signal.pause()
    os.read(reads, 1)
    counts = []
    storage.save(OLD, TARGET)
    counts.append(len(os.listdir("folder")))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    storage.save(OLD, TARGET)
    counts.append(len(os.listdir("folder")))
    return counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "kills":
        print(json.dumps(kills(sys.argv[2])))
    elif sys.argv[1] == "told":
        print(json.dumps(told(sys.argv[2])))
    elif sys.argv[1] == "limits":
        print(json.dumps(limits()))
    else:
        print(json.dumps(living()))
