"""Functions run in several processes side by side, as a launcher would have started them; none of them can hang."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Ended", "free_port", "together"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["torch", "leyden.trainer", "leyden.runtime.ddp", "leyden.runtime.fsdp"])


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS = itertools.count(20_000 + _WORKER % 8 * 1_500 + os.getpid() % 1_000)
"""Below those that the system gives to whoever connects or listens, which might take one before it is used."""


def free_port() -> int:
    """Return a port of this machine that nobody has, and no other call gives."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := next(_PORTS)))
            return port


class Ended(NamedTuple):
    """How one process ended: with a value, or with the traceback of an error, or with neither where it died."""

    value: Any
    error: str
    exit_code: int | None


def together(
    function: Callable[..., Any], *args: Any, processes: int = 2, timeout_s: float = 60.0, folder: Path | None = None
) -> list[Ended]:
    """Call ``function(*args)`` in that many processes, and return how each ended, in the order of their ranks.

    `function` is one of an importable module, and what it returns can be pickled. Each process has the variables of
    torchrun, one thread, and `folder` (this process's by default) as its working folder. A process that is not done
    in time is ended, and named in the error; it has printed before where its threads are.
    """
    port = free_port()
    running, ends = [], []
    for rank in range(processes):
        here, there = _SERVER.Pipe(duplex=False)
        environment = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "LEYDEN_CALLBACKS": "off",
        }  # fmt: skip
        process = _SERVER.Process(
            target=_run, args=(there, environment, str(folder or Path.cwd()), timeout_s, function, args), daemon=True
        )
        process.start()
        there.close()
        running.append(process)
        ends.append(here)
    said: dict[Any, bytes] = {}
    while len(said) < processes and (ready := wait(set(ends).difference(said), timeout=timeout_s)):
        said |= {end: _said(end) for end in ready}
    hanging = [rank for rank, end in enumerate(ends) if end not in said]
    for process in running:
        process.join(0 if hanging else timeout_s)
        process.kill()
        process.join()
    assert not hanging, f"processes {hanging} of {processes} did not end within {timeout_s} s"
    ended = []
    for end, process in zip(ends, running, strict=True):
        value, error = pickle.loads(said[end])
        ended.append(Ended(value, error, process.exitcode))
    return ended


def _said(end: Any) -> bytes:
    """What a process said as it ended; nothing where it was killed."""
    try:
        return bytes(end.recv_bytes())
    except EOFError:
        return pickle.dumps((None, ""))


def _run(
    end: Connection, environment: dict[str, str], folder: str, timeout_s: float, function: Callable[..., Any], args: Any
) -> None:  # fmt: skip
    import torch

    from leyden.rank_zero import rank_zero_only

    os.environ.update(environment)
    os.chdir(folder)
    faulthandler.dump_traceback_later(0.95 * timeout_s, file=2)
    torch.set_num_threads(1)
    rank_zero_only.rank = int(environment["RANK"])  # which is read as leyden is imported, and the server has
    try:
        end.send_bytes(pickle.dumps((function(*args), "")))  # plain: tensors in shared memory go with the process
    except BaseException as error:
        end.send_bytes(pickle.dumps((None, "".join(traceback.format_exception(error)))))
        raise
